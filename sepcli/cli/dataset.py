"""`sepcli dataset`: make, check and filter folders of stems to train on.

Parses, calls one function of `sepcli.data`, prints. Results go to standard output, notices to standard error.
Everything heavy is imported inside the command functions, so that `--help` is instant.
"""

from __future__ import annotations

import typer

from sepcli.cli import dataset_check, dataset_filter, dataset_render
from sepcli.cli.panels import CommandGroup, PanelCommand

app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    add_completion=False,  # the program has it
    no_args_is_help=True,
    help="Make, check and filter folders of stems to train on.",
)


@app.callback()
def dataset() -> None:
    """Make, check and filter folders of stems to train on."""


app.command("check", cls=PanelCommand, no_args_is_help=True)(dataset_check.check)
app.command("filter", cls=PanelCommand)(dataset_filter.filter_)
app.command("render", cls=PanelCommand, no_args_is_help=True)(dataset_render.render)
