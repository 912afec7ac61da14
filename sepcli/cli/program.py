"""What may be left out or written in another way: read before the options themselves are.

`sepcli song.mp3` is `sepcli separate song.mp3`, and options of other separators are taken for ours (peers.py).
Knows no command but that `separate` is the usual one. A command's module is imported when the command is asked
for, so that one command does not wait for all others.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

import typer

from sepcli.cli.panels import CommandGroup, PanelCommand
from sepcli.errors import UsageError, near

USUAL = "separate"


@dataclass(frozen=True)
class Later:
    """Where a command is defined. what: its function there, or a Typer app with commands of its own."""

    module: str
    what: str
    needs_arguments: bool = True  # without any, the help page is shown
    cls: type[PanelCommand] = PanelCommand

    def made(self, name: str) -> Any:
        """Import it, and make the command."""
        found = getattr(importlib.import_module(self.module), self.what)
        if isinstance(found, typer.Typer):
            command = typer.main.get_command(found)
            command.name = name
            return command
        alone = typer.Typer(rich_markup_mode=None, add_completion=False)
        alone.command(name, cls=self.cls, no_args_is_help=self.needs_arguments)(found)
        return typer.main.get_command(alone)

    def summary(self, name: str, limit: int) -> str:
        """Its line on the program's help page, in at most so many columns. Its options are not looked at."""
        found = getattr(importlib.import_module(self.module), self.what)
        text = str(found.info.help) if isinstance(found, typer.Typer) else cleandoc(found.__doc__ or "")
        return PanelCommand(name, help=text).get_short_help_str(limit)


class _Commands(Mapping[str, Any]):
    """Commands by name, in the given order; each is made when it is looked up."""

    def __init__(self, later: Mapping[str, Later]):
        self._later = later
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._later[name].made(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._later

    def __iter__(self) -> Iterator[str]:
        return iter(self._later)

    def __len__(self) -> int:
        return len(self._later)


class Program(CommandGroup):
    """The commands; `separate` where none is named."""

    later: Mapping[str, Later] = {}

    def __init__(self, **parts: Any):
        super().__init__(**parts)
        self.commands: Any = _Commands(self.later)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See click. Makes no command for it."""
        limit = formatter.width - 6 - max(map(len, self.later))
        with formatter.section("Commands"):
            formatter.write_dl([(name, later.summary(name, limit)) for name, later in self.later.items()])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click. Adds the command that was left out; UsageError where a word is neither it nor a file."""
        own = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        try:
            args = completed(args, self.commands, own)
        except UsageError:
            if not ctx.resilient_parsing:  # the shell's completion, which never fails
                raise
        return super().parse_args(ctx, args)


class SeparateCommand(PanelCommand):
    """A command that takes the options of other separators too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click. Puts ours in place of theirs; UsageError where ours differs."""
        from sepcli.cli.peers import translated

        if not ctx.resilient_parsing:
            options: list[Any] = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
            valued = {
                name for option in options if not (option.is_flag or option.count) for name in option.opts
            }
            args = translated(args, valued)
        return super().parse_args(ctx, args)


def completed(arguments: Sequence[str], commands: Collection[str], own: Collection[str]) -> list[str]:
    """The arguments of the program, with `separate` in front where no command is named.

    commands: their names. own: the program's options, which stand before a command. UsageError for a first word
    that is no command and can't be an input, and for options that stand before a command.
    """
    arguments = list(arguments)
    first = arguments[0] if arguments else ""
    if not first or first in commands or first.partition("=")[0] in own:
        return arguments
    if first.startswith("-") and first != "-":
        named = next((word for word in arguments if word in commands), None)
        if named is not None:
            raise UsageError(
                f"The option {first} stands before the word '{named}', which is a command.",
                remedy=f"Write the command first: sepcli {named} ...; a file of that name is ./{named}.",
            )
    elif not _may_be_an_input(first):
        found = [name for name in near(first, commands) if name in commands]
        guess = f"Did you mean sepcli {' or '.join(found)}? " if found else ""
        raise UsageError(
            f"'{first}' is no command of sepcli, and no file or folder of that name is here.",
            remedy=f"{guess}See `sepcli --help`.",
            code="unknown_command",
        )
    return [USUAL, *arguments]


def _may_be_an_input(word: str) -> bool:
    """Whether it is there, or is written like a file or an address; `separate` says what is wrong with it."""
    separators = {os.sep, os.altsep or os.sep}
    looks = "." in word or not separators.isdisjoint(word)
    return word == "-" or looks or os.path.lexists(os.path.expanduser(word))
