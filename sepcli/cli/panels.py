"""Help pages in sections: options are listed under their `rich_help_panel`.

Typer draws such panels with rich, which takes more CPU time to import than all of `--help` may use; this is
the same page as plain text. For the same reason values that are of their type already, as words and defaults
are, don't go through typer's conversion, which imports pydantic. Knows nothing of any command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup

OTHER = "Options"


class PanelCommand(TyperCommand):
    """A command whose help page has its options in sections, in the order in which they are declared."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See click."""
        return _converted_late(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words behind the command's name in "Usage:"."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [self.options_metavar or "[OPTIONS]", *map(argument_name, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(param, "rich_help_panel", None) or OTHER
            if param.param_type_name == "argument":
                title, record = "Arguments", (argument_name(param), getattr(param, "help", None) or "")
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class CommandGroup(TyperGroup):
    """Commands under one name."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See click."""
        return _converted_late(super().get_params(ctx))


class _AsGiven:
    """In the place of what converts a parameter's values, which is made only for a value that needs it."""

    def __init__(self, annotation: Any, make: Callable[[], Any]):
        self.annotation, self.make = annotation, make

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the parameter's type."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self.annotation == list[str] and isinstance(value, (list, tuple)):
            if all(isinstance(word, str) for word in value):
                return list(value)
        elif isinstance(self.annotation, type) and type(value) is self.annotation:
            return value
        return self.make().coerce(value, param=param, ctx=ctx)


def _converted_late(params: list[Any]) -> list[Any]:
    for param in params:
        known = hasattr(param, "get_runtime_param") and hasattr(param, "type_descriptor")  # in some typers
        if known and "get_runtime_param" not in vars(param):
            given = _AsGiven(param.type_descriptor.annotation, param.get_runtime_param)
            param.get_runtime_param = lambda given=given: given
    return params


def argument_name(param: Any) -> str:
    """An argument on a help page: NAME, [NAME] if it may be left out, NAME... if there may be several."""
    name = (param.metavar or param.name.upper()).strip("[].")
    name += "..." if param.nargs == -1 else ""
    return name if param.required else f"[{name}]"
