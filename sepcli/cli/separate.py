"""`sepcli separate`: the options of the main command."""

from __future__ import annotations

import typer


def separate(inputs: list[str]) -> None:
    """Separate files, folders or standard input into stems."""
    raise typer.Exit(0)
