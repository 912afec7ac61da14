"""Help pages in sections: options are listed under their `rich_help_panel`.

Typer draws such panels with rich, which takes more CPU time to import than all of `--help` may use; this is
the same page as plain text. Knows nothing of any command.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

OTHER = "Options"


class PanelCommand(TyperCommand):
    """A command whose help page has its options in sections, in the order in which they are declared."""

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


def argument_name(param: Any) -> str:
    """An argument on a help page: NAME, [NAME] if it may be left out, NAME... if there may be several."""
    name = (param.metavar or param.name.upper()).strip("[].")
    name += "..." if param.nargs == -1 else ""
    return name if param.required else f"[{name}]"
