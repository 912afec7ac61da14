"""`sepcli models`: list the models, download, check and remove them, and publish one of your own.

Results go to standard output, one a line and never wrapped, so that they can be piped; progress, notices and
questions go to standard error. Only `push` loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sepcli.cli import console
from sepcli.cli.options import complete_model
from sepcli.cli.panels import CommandGroup, PanelCommand
from sepcli.errors import ModelError, UsageError
from sepcli.weights.catalog import load_catalog
from sepcli.weights.entries import Catalog, Entry

ASK_ABOVE = 1_000_000_000  # bytes; a larger download is asked about first

app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    add_completion=False,  # the program has it
    no_args_is_help=True,
    help="List, download, check, remove and publish models.",
)


Catalogs = Annotated[
    list[Path] | None,
    typer.Option("--catalog", metavar="FILE", help="Add the models of this TOML file; repeatable."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_model, help="The model.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", autocompletion=complete_model, help="The models.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", cls=PanelCommand)
def list_(
    target: Annotated[
        str | None, typer.Option("--target", "-t", metavar="STEM", help="Only models that have this stem.")
    ] = None,
    json: AsJson = False,
    catalog: Catalogs = None,
) -> None:
    """List the models.

    The table has stems, size and licence of each model, how its files are checked, and whether they are
    downloaded.
    """
    known = _catalog(catalog)
    entries = list(known.values()) if target is None else _having(known, target)
    if json:
        console.print_json([_described(entry) for entry in entries])
        return
    rows = [
        (
            entry.name,
            entry.stems_text.replace(" ", ""),
            _size(entry),
            entry.license,
            entry.check,
            _presence(entry),
        )
        for entry in entries
    ]
    console.print_columns([("MODEL", "STEMS", "SIZE", "LICENCE", "CHECK", "DOWNLOADED"), *rows])


@app.command(cls=PanelCommand)
def info(name: Name, json: AsJson = False, catalog: Catalogs = None) -> None:
    """Show everything that is known about a model.

    Licence, origin, training data, limits, scores, networks, and each file with its source and check.
    """
    entry = _catalog(catalog).find(name)
    if json:
        console.print_json(_described(entry))
        return
    lines = [
        ("name", entry.name),
        ("also called", ", ".join(entry.aliases)),
        ("family", entry.family),
        ("stems", entry.stems_text),
        (
            "queries",
            f"takes examples of {entry.min_query:g} s or more: separate --query [NAME=]FILE"
            if entry.min_query is not None
            else "",
        ),
        (
            "audio",
            f"{entry.samplerate} Hz, {('mono', 'stereo')[entry.channels - 1]}"
            if entry.channels <= 2
            else f"{entry.samplerate} Hz, {entry.channels} channels",
        ),
        ("segment", f"{float(entry.segment):g} s" if entry.segment is not None else ""),
        (
            "half precision",
            ("used where it is faster" if entry.half else "not used")
            + (f"; {entry.half_note}" if entry.half_note else ""),
        ),
        ("licence", entry.license + (f". {entry.license_note}" if entry.license_note else "")),
        ("paper", entry.paper),
        ("origin", entry.origin),
        ("training data", entry.training_data),
        ("limits", entry.limits),
        ("size", _size(entry)),
        ("check", _CHECKS[entry.check]),
        ("downloaded", _presence(entry)),
        ("defined in", str(entry.catalog_path)),
    ]
    for score in entry.scores:
        stems = ", ".join(f"{stem} {value:.2f}" for stem, value in score.stems.items())
        lines.append(
            (
                f"{score.by} score",
                f"{score.value:.2f} dB {score.metric} on {score.set}"
                + (f" ({stems})" if stems else "")
                + (f". {score.note}" if score.note else ""),
            )
        )
    for member in entry.members:
        weights = zip(entry.sources, member.weights or (), strict=False)
        used = ", ".join(f"{stem} x {weight:g}" for stem, weight in weights if weight)
        lines.append(("network", f"{member.arch} from {member.file.name}" + (f", for {used}" if used else "")))
    for file in entry.files:
        lines.append(("file", f"{file.name}: {file.source} ({console.bytes_text(file.bytes)}, {file.check})"))
        if file.fallback:
            lines.append(
                (
                    "or",
                    f"{file.fallback.source} ({console.bytes_text(file.fallback.bytes)}, "
                    f"{file.fallback.check})",
                )
            )
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        if value:
            console.line(f"{key:<{width}}  {value}")


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

    known = _catalog(catalog)
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

    known = _catalog(catalog)
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

    for file in _catalog(catalog).find(name).files:
        console.line(str(hub.destination(file)))
        if not hub.is_cached(file):
            console.say(f"{file.filename} is not downloaded; `sepcli models download {name}` gets it.")


@app.command(cls=PanelCommand)
def remove(name: Name, catalog: Catalogs = None) -> None:
    """Delete a model's downloaded files, and what interrupted downloads have left."""
    from sepcli.weights import download as hub

    entry = _catalog(catalog).find(name)
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


_CHECKS = {
    "full": "full: the hash of every file is known",
    "prefix": "prefix: of some file only the first digits of the hash are known",
    "size": "size: of some file only the size is known",
    "none": "none: of some file nothing is known; its first download is recorded and enforced",
}


def _catalog(files: Sequence[Path] | None) -> Catalog:
    return load_catalog(files or ())


def _having(catalog: Catalog, stem: str) -> list[Entry]:
    """The models with this stem; UsageError names the stems there are."""
    from sepcli.batch.words import rest_of, stem_of

    found = [
        entry for entry in catalog.values() if stem_of(stem, entry.sources) or rest_of(stem, entry.sources)
    ]
    if not found:
        stems = dict.fromkeys(stem for entry in catalog.values() for stem in entry.sources)
        raise UsageError(
            f"No model has the stem '{stem}'; there are {', '.join(stems)}.",
            remedy="Choose among these.",
            code="unknown_stem",
        )
    return found


def _ask(files: Iterable[Any]) -> None:
    """Ask before a large download: ends the command on a "no", UsageError where nobody can answer."""
    sizes = [file.about_bytes for file in files]
    total = console.bytes_text(sum(size or 0 for size in sizes))
    amount = f"at least {total}" if None in sizes else total
    if not (sys.stdin is not None and sys.stdin.isatty()):
        raise UsageError(f"This would download {amount}.", remedy="Give --yes to do so.", code="not_confirmed")
    if not typer.confirm(f"Download {amount}?", err=True):
        raise typer.Exit()


def _size(entry: Entry) -> str:
    """The size of its files as a text; "?" where it is not known."""
    if entry.size is not None:
        return console.bytes_text(entry.size)
    about = [file.about_bytes for file in entry.files]
    return "?" if None in about else f"about {console.bytes_text(sum(size or 0 for size in about))}"


def _presence(entry: Entry) -> str:
    """Whether its files are on this machine: "yes", "no" or "2 of 4"."""
    from sepcli.weights import download as hub

    present = sum(hub.is_cached(file) for file in entry.files)
    return "yes" if present == len(entry.files) else f"{present} of {len(entry.files)}" if present else "no"


def _described(entry: Entry) -> dict[str, Any]:
    """The entry as a JSON object; sizes in bytes, null where unknown."""
    from sepcli.weights import download as hub

    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "family": entry.family,
        "stems": list(entry.sources),
        "min_query": entry.min_query,
        "samplerate": entry.samplerate,
        "channels": entry.channels,
        "size": entry.size,
        "license": entry.license,
        "license_note": entry.license_note,
        "check": entry.check,
        "cached": all(hub.is_cached(file) for file in entry.files),
        "paper": entry.paper,
        "origin": entry.origin,
        "training_data": entry.training_data,
        "limits": entry.limits,
        "scores": [
            {
                "metric": score.metric,
                "set": score.set,
                "value": score.value,
                "by": score.by,
                "stems": dict(score.stems),
                "note": score.note,
            }
            for score in entry.scores
        ],
        "files": [
            {
                "name": file.name,
                "source": file.source,
                "size": file.bytes,
                "check": file.check,
                "fallback": file.fallback.source if file.fallback else None,
                "path": str(hub.cached(file) or "") or None,
            }
            for file in entry.files
        ],
        "catalog": str(entry.catalog_path),
    }
