"""`sepcli inspect`: its options and how it ends. evaluation/attention.py does the work and draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepcli.cli import console
from sepcli.cli.options import (
    Device,
    ModelPrecision,
    Precision,
    catalogs,
    complete_model,
    complete_stem,
    parse_time,
)
from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.evaluation.attention import Attention

WHERE = "Where it goes"
DEFAULT_NAME = "{track}.attention.png"


def inspect(
    song: Annotated[Path, typer.Argument(metavar="INPUT", show_default=False, help="An audio or video file.")],
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=complete_model,
            show_default=False,
            help="As for `separate`, but a model that attends to latent sources: a LaSAFT network.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--target",
            metavar="STEM",
            autocompletion=complete_stem,
            help="Draw a panel for this stem; repeatable. Default: all stems of the model.",
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query",
            metavar="[NAME=]FILE",
            help="Draw a panel for the stem of this example, for a model that takes queries; as for "
            "`separate`.",
        ),
    ] = None,
    level: Annotated[
        int,
        typer.Option(
            "--level",
            metavar="N",
            help="Which decoder's attention is drawn. 1 is the last one, the finest in time, which the paper"
            " draws; the deepest has the largest number.",
        ),
    ] = 1,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="TIME", help="Begin at this time: seconds, mm:ss or hh:mm:ss."),
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", metavar="TIME", help="Take only this much of the input.")
    ] = None,
    catalog: Annotated[list[Path] | None, catalogs()] = None,
    device: Device = "auto",
    precision: ModelPrecision = Precision.auto,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            rich_help_panel=WHERE,
            show_default=False,
            help=f"The picture: .png, .svg or .pdf. Default: {DEFAULT_NAME.format(track='INPUT')} in the "
            "current folder, INPUT without its suffix.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=WHERE, help="Replace the picture if it is there already.")
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            rich_help_panel=WHERE,
            help="Print a JSON object on standard output: for each stem, the mean weights of the latent "
            "sources, and how far they vary.",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", rich_help_panel=WHERE, help="Print only errors.")
    ] = False,
) -> None:
    """Draw which latent sources a model attends to.

    The picture has a panel for each stem, above the spectrogram of the mixture. Time goes from left to right,
    and each latent source has a line. All panels have the same scale, and the weights of a moment add up to 1.
    If a network does not listen to the audio, the weights are constant.
    """
    console.report_as("quiet" if quiet else "text")
    begin = parse_time(start, "--start") if start is not None else 0.0
    length = parse_time(duration, "--duration") if duration is not None else None
    if length is not None and length <= 0:
        raise UsageError(
            f"--duration is {length:g}, but must be more than 0.", remedy="Leave it out, or change it."
        )
    song = Path(os.path.expanduser(song))
    picture = Path(DEFAULT_NAME.format(track=song.stem)) if out is None else Path(os.path.expanduser(out))

    from sepcli.batch.queries import load_asked, needs_one, read_queries
    from sepcli.sound.probe import probe
    from sepcli.weights.catalog import load_catalog
    from sepcli.weights.modelspec import read_model

    info = probe(song)
    targets = tuple(dict.fromkeys(target or ()))
    queries = read_queries(query or (), targets, rest=False)
    models = load_catalog(catalog or ())
    entry = read_model(model, models).entry

    from sepcli.batch.outputs import check_writable
    from sepcli.engine.device import choose_device, choose_precision, tune_process
    from sepcli.engine.separator import Inspectable
    from sepcli.evaluation.attention import check_picture, draw, inspectable, listen, shows_none

    inputs = {"the input": song, **{f"the query '{each.name}'": each.path for each in queries}}
    check_picture(picture, inputs, force=force)
    if entry is not None and not inspectable(entry):  # said before a download
        raise shows_none(entry.name, models)
    where = choose_device(device)
    check_writable(picture.parent)
    tune_process()
    with console.download_progress(f"Downloading {model}") as progress:
        loaded = load_asked(
            model,
            targets or None,
            queries,
            catalog=models,
            progress=progress,
            notice=console.notice,
        )
    if not isinstance(loaded.model, Inspectable):
        raise shows_none(loaded.name, models)
    if not loaded.model.sources:
        raise needs_one(loaded.name)
    dtype = choose_precision(precision.value, where, loaded.model.half).dtype
    with console.AudioBar() as bar:
        found = listen(
            loaded.model,
            song,
            info,
            start=begin,
            duration=length,
            level=level,
            device=where.torch,
            dtype=dtype,
            progress=lambda done, total: bar.show("Listening", done, total),
        )
    for warning in (*(text for each in queries for text in each.warnings), *found.warnings):
        console.notice(warning)
    draw(found, picture, f"{console.shown(song.name)}: attention of {loaded.name}, {_decoder(level)}")
    if json:
        console.print_json(_described(found, song, loaded.name, picture))
    console.say(f"The picture is {picture}.")


def _decoder(level: int) -> str:
    return "last decoder" if level == 1 else f"decoder {level} from the end"


def _described(found: Attention, song: Path, model: str, picture: Path) -> dict[str, Any]:
    """For programs: what was drawn, in a few numbers."""
    return {
        "input": str(song),
        "status": "done",
        "output": str(picture),
        "model": model,
        "level": found.level,
        "start": found.start,
        "seconds": round(found.seconds, 3),
        "frames": found.frames,
        "frame_seconds": found.frame_seconds,
        "stems": {
            stem: {
                "mean": [round(value, 6) for value in means],
                "deviation": [round(value, 6) for value in deviations],
            }
            for stem, (means, deviations) in found.means().items()
        },
    }
