"""`sepcli robustness`: its options and how it ends. evaluation/robustness.py does the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sepcli.cli import console
from sepcli.cli.evaluate import parse_overlap
from sepcli.cli.options import (
    BatchSize,
    Device,
    Segment,
    catalogs,
    complete_model,
    overlap_or_published,
    parse_batch_size,
    parse_time,
)
from sepcli.errors import UsageError

WHERE = "Where it goes"


def robustness(
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=complete_model,
            show_default=False,
            help="As for `separate`, but a codec: encodec-48k, or a run that trained one.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="A folder of tracks with their stems: DIR/TRACK/STEM.wav.",
        ),
    ],
    layout: Annotated[
        str,
        typer.Option("--layout", metavar="auto|musdb|stems|slakh|pools", help="How the folder is organised."),
    ] = "auto",
    target: Annotated[
        str, typer.Option("-t", "--target", metavar="STEM", help="The stem that goes through the codec.")
    ] = "vocals",
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            metavar="S[,S...]",
            help="Deviations of the noise: on the waveform relative to full scale, on latents and codes "
            "relative to their own deviation.",
        ),
    ] = "0,1e-6,1e-3,0.01,0.1,1",
    bandwidth: Annotated[
        float | None,
        typer.Option(
            "--bandwidth",
            metavar="KBIT/S",
            show_default=False,
            help="The bit rate of the quantised latents. Default: all codebooks.",
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            metavar="TIME",
            help="Use only this much of the beginning of each track.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="For the noise.")] = 0,
    catalog: Annotated[list[Path] | None, catalogs()] = None,
    device: Device = "auto",
    overlap: Annotated[str, overlap_or_published("0")] = "published",
    segment: Segment = None,
    batch_size: BatchSize = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            rich_help_panel=WHERE,
            help="Write the scores of all tracks and a picture to this folder.",
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", rich_help_panel=WHERE, help="Print a JSON object instead of the table."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", rich_help_panel=WHERE, help="Print only results and errors.")
    ] = False,
) -> None:
    """Measure how much noise the latents of a codec bear.

    A stem goes through the codec with noise added, and the SDR of the result is measured, in dB, as a mean over
    tracks. The noise is added to the waveform, to latents that are not quantised, to latents before they are
    quantised, or to their codes. docs/ldm.md describes the study.
    """
    console.report_as("quiet" if quiet else "text")
    strengths = parse_strengths(noise)
    seconds = parse_time(duration, "--duration") if duration is not None else None
    if seconds is not None and seconds <= 0:
        raise UsageError(
            f"--duration is {seconds:g}, but must be more than 0.", remedy="Leave it out, or change it."
        )
    share, calls = parse_overlap(overlap), parse_batch_size(batch_size)

    from sepcli.weights.catalog import load_catalog
    from sepcli.weights.modelspec import read_model

    models = load_catalog(catalog or ())
    entry = read_model(model, models).entry

    from sepcli.batch.outputs import check_writable
    from sepcli.engine.device import choose_device, tune_process
    from sepcli.engine.separator import Coder
    from sepcli.engine.settings import Settings
    from sepcli.evaluation.robustness import check_strengths, codes, find_sounds, no_codec, study, table, write
    from sepcli.loading import load_model

    check_strengths(strengths)
    if entry is not None and not codes(entry):  # said before a download
        raise no_codec(entry.name, models)
    tracks = find_sounds(data, layout, target)
    where = choose_device(device)
    if out is not None:
        check_writable(out)
    tune_process()
    with console.download_progress(f"Downloading {model}") as progress:
        loaded = load_model(model, catalog=models, progress=progress, notice=console.notice)
    if not isinstance(loaded.model, Coder):
        raise no_codec(loaded.name, models)
    if share is None:
        published = loaded.entry.published_overlap if loaded.entry else None
        share = 0.0 if published is None else published
    cut = Settings(overlap=share, segment=segment, seed=seed, batch_size=calls)
    with console.AudioBar() as bar:
        found = study(
            loaded.model,
            tracks,
            target,
            model=loaded.name,
            strengths=strengths,
            bandwidth=bandwidth,
            cut=cut,
            seconds=seconds,
            device=where.torch,
            notice=console.notice,
            progress=bar.show,
        )
    if json:
        console.print_json(found.as_json())
    else:
        console.line(f"SDR in dB of {target} that come back, mean over {len(found.scores)} tracks")
        console.print_columns(list(table(found)))
    if out is not None:
        written = write(found, out, notice=console.notice)
        console.say(f"In {out}: {', '.join(path.name for path in written)}.")


def parse_strengths(text: str) -> tuple[float, ...]:
    """ "0,0.1" -> (0.0, 0.1)."""
    words: Sequence[str] = [word for word in text.split(",") if word.strip()]
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise UsageError(
            f"--noise {text}: numbers from 0 are needed.", remedy="For example --noise 0,0.01,0.1,1."
        ) from None
