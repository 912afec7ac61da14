"""`sepcli models`: download, check and remove models, and publish one of your own; finding.py finds them.

Results go to standard output, one a line and never wrapped, so that they can be piped; progress, notices and
questions go to standard error. Only `push` and `export` load torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from sepcli.cli import console, finding
from sepcli.cli.finding import AsJson, Catalogs, Name, open_catalog
from sepcli.cli.options import complete_model
from sepcli.cli.panels import CommandGroup, PanelCommand
from sepcli.errors import ModelError, UsageError

ASK_ABOVE = 1_000_000_000  # bytes; a larger download is asked about first

app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    add_completion=False,  # the program has it
    no_args_is_help=True,
    help="Find, download, check, remove and publish models.",
)


Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", autocompletion=complete_model, help="The models.")
]


app.command("list", cls=PanelCommand)(finding.list_)
app.command(cls=PanelCommand)(finding.info)
app.command(cls=PanelCommand)(finding.recommend)


@app.command(cls=PanelCommand)
def download(
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Every model of the catalogue.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Don't ask before a download of more than 1 GB.")
    ] = False,
    catalog: Catalogs = None,
) -> None:
    """Download models and check them.

    They then work offline. Before it downloads more than 1 GB, it asks.
    """
    from sepcli.weights import download as hub

    known = open_catalog(catalog)
    if not names and not every:
        raise UsageError(
            "No model is named.", remedy="Name one or more of `sepcli models list`, or give --all."
        )
    entries = list(known.values()) if every else [known.find(name) for name in dict.fromkeys(names or [])]
    absent = {file for entry in entries for file in entry.files if not hub.is_cached(file)}
    if sum(file.about_bytes or 0 for file in absent) > ASK_ABOVE and not yes:
        _ask(absent)
    failed = False
    for entry in entries:
        try:
            for number, file in enumerate(entry.files, 1):
                of = f" {number}/{len(entry.files)}" if len(entry.files) > 1 else ""
                with console.download_progress(f"{entry.name}{of}") as progress:
                    hub.fetch(file, progress=progress, notice=console.notice)
        except ModelError as problem:
            if problem.code in ("no_space", "not_writable", "no_home", "offline"):
                raise  # it would stop the other downloads too
            console.error(problem)
            failed = True
            continue
        console.line(f"{entry.name}: ready")
    if failed:
        raise typer.Exit(ModelError.exit_code)


@app.command(cls=PanelCommand)
def verify(names: Names = None, catalog: Catalogs = None) -> None:
    """Check the bundled and downloaded models again.

    Each file is hashed again, and a wrong one is deleted. Without a name, all models are checked.
    """
    from sepcli.weights import download as hub

    known = open_catalog(catalog)
    entries = [known.find(name) for name in dict.fromkeys(names)] if names else list(known.values())
    code = 0
    for entry in entries:
        for file in entry.files:
            if not hub.is_cached(file):
                if names:
                    console.line(f"{entry.name}: {file.filename} is not downloaded")
                    code = ModelError.exit_code
                continue
            try:
                found = hub.verify(file)
            except ModelError as problem:
                console.error(problem)
                code = ModelError.exit_code
                continue
            how = {
                "full": "published hash",
                "sha1": "published SHA-1 and the first download",
                "md5": "published MD5 and the first download",
                "prefix": "published digits and the first download",
                "size": "published size and the first download",
                "none": "first download",
            }[found.check]
            console.line(f"{entry.name}: {found.path.name} is right ({how}), sha256 {found.sha256}")
    if code:
        raise typer.Exit(code)


@app.command(cls=PanelCommand)
def where(name: Name, catalog: Catalogs = None) -> None:
    """Print where a model's files are.

    Each path is a line. A file that is not downloaded yet has the path that it will get.
    """
    from sepcli.weights import download as hub

    for file in open_catalog(catalog).find(name).files:
        console.line(str(hub.destination(file)))
        if not hub.is_cached(file):
            console.say(f"{file.filename} is not downloaded; `sepcli models download {name}` gets it.")


@app.command(cls=PanelCommand)
def remove(name: Name, catalog: Catalogs = None) -> None:
    """Delete a model's downloaded files, and what interrupted downloads have left."""
    from sepcli.weights import download as hub

    entry = open_catalog(catalog).find(name)
    freed = sum(hub.remove(file) for file in entry.files)
    console.line(f"{name}: {console.bytes_text(freed)} freed" if freed else f"{name}: was not downloaded")


@app.command(cls=PanelCommand)
def push(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", show_default=False, help="The folder that `sepcli train` wrote.")
    ],
    repo: Annotated[
        str,
        typer.Option(
            "--repo",
            metavar="OWNER/NAME",
            show_default=False,
            help="The repository on the hub; it is made if it is not there.",
        ),
    ],
    private: Annotated[bool, typer.Option("--private", help="Make it a private repository.")] = False,
    branch: Annotated[
        str,
        typer.Option(
            "--revision",
            "--branch",
            metavar="BRANCH",
            help="The branch to add to; it is made if it is not there.",
        ),
    ] = "main",
    message: Annotated[
        str | None, typer.Option("--message", metavar="TEXT", help="The message of the commit.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="The licence of the weights: mit, cc-by-4.0, ... Without it the card has none.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be uploaded, and the model card.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Publish a trained model on the Hugging Face hub.

    Makes one commit with the weights, the settings, the curves, and a model card that is made from them. Prints
    the name that --model takes, pinned to this commit, and an entry for a --catalog file. Log in first with `hf
    auth login`.
    """
    from sepcli.training.publish import prepare, publish

    upload = prepare(run, repo, branch=branch, license=license)
    sizes = {name: upload.size(name) for name in upload.files}
    if license is None:
        console.notice("No --license is given: others will not know what they may do with these weights.")
    if dry_run:
        if json:
            console.print_json({"repo": repo, "revision": branch, "files": sizes, "card": upload.card})
            return
        console.print_columns(
            [("FILE", "SIZE"), *((name, console.bytes_text(size)) for name, size in sizes.items())]
        )
        console.lines(f"\n{upload.card}")
        return
    console.say(f"Uploading {console.bytes_text(sum(sizes.values()))} to {repo} at {branch} ...")
    done = publish(upload, private=private, message=message)
    if json:
        console.print_json(
            {
                "model": done.spec,
                "repo": repo,
                "revision": done.commit,
                "url": done.url,
                "files": sizes,
                "entry": done.entry,
            }
        )
        return
    console.line(done.spec)
    console.lines(f"\n{done.entry}")
    console.say(f"Published: {done.url}")


@app.command(cls=PanelCommand)
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", show_default=False, help="A model, such as the folder that `sepcli train` wrote."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE.ckpt", show_default=False, help="The checkpoint to write."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a model as other programs read it.

    RoFormers, MDX23C and SCNet become a checkpoint and a YAML file beside it, as the training toolkit (MSST),
    audio-separator and UVR take them.
    """
    from sepcli.training.export import export_model

    for path in export_model(model, out, force=force, notice=console.notice):
        console.line(str(path))


def _ask(files: Iterable[Any]) -> None:
    """Ask before a large download: ends the command on a "no", UsageError where nobody can answer."""
    sizes = [file.about_bytes for file in files]
    total = console.bytes_text(sum(size or 0 for size in sizes))
    amount = f"at least {total}" if None in sizes else total
    if not (sys.stdin is not None and sys.stdin.isatty()):
        raise UsageError(f"This would download {amount}.", remedy="Give --yes to do so.", code="not_confirmed")
    if not typer.confirm(f"Download {amount}?", err=True):
        raise typer.Exit()
