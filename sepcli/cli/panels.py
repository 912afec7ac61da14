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

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                title = "Arguments" if param.param_type_name == "argument" else None
                panel = getattr(param, "rich_help_panel", None) or title or OTHER
                sections.setdefault(panel, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
