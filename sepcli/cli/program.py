"""What may be left out or written in another way: read before the options themselves are.

`sepcli song.mp3` is `sepcli separate song.mp3`, and options of other separators are taken for ours (peers.py).
Knows no command but that `separate` is the usual one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

from typer.core import TyperGroup

from sepcli.cli.panels import PanelCommand
from sepcli.errors import UsageError, near

USUAL = "separate"


class Program(TyperGroup):
    """The commands; `separate` where none is named."""

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
