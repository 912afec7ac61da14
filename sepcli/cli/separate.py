"""`sepcli separate`: its options. How it goes and ends is in runs.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepcli.batch import DEFAULT_TEMPLATE, LAYOUTS
from sepcli.cli import console, runs
from sepcli.cli.options import (
    COMPUTE,
    BatchSize,
    Compile,
    Device,
    ModelPrecision,
    Precision,
    Segment,
    Shifts,
    catalogs,
    complete_model,
    complete_stem,
    model_options,
    parse_batch_size,
    parse_options,
    parse_time,
)
from sepcli.errors import UsageError
from sepcli.sound.formats import DEPTHS, FORMATS, LOSSLESS, listed
from sepcli.stems import BLENDS
from sepcli.weights.catalog import DEFAULT_MODEL, STUDIO_MODEL

if TYPE_CHECKING:
    from sepcli.weights.entries import Catalog

STDOUT = "-"


class Clip(StrEnum):
    gain = "gain"
    clamp = "clamp"
    none = "none"


class Sum(StrEnum):
    none = "none"
    exact = "exact"


class ProgressStyle(StrEnum):
    auto = "auto"
    json = "json"
    none = "none"


def _one_of(words: Collection[str]) -> Callable[[str | None], str | None]:
    def check(word: str | None) -> str | None:
        if word is not None and word not in words:
            raise typer.BadParameter(f"'{word}' is none of {', '.join(words)}.")
        return word

    return check


def _default_bitrates() -> str:
    lossy = [(spec.name, spec.bitrates) for spec in FORMATS.values() if spec.bitrates is not None]
    return ", ".join(f"{name} {bitrates.default_text}" for name, bitrates in lossy)


WHAT, WHERE, FILES, LEVELS = "What to separate", "Where it goes", "What the files are", "Levels"
BATCH, REPORT = "Batches", "What is reported"


def separate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help="Audio or video files, folders (searched recursively), addresses of such "
            "(s3://bucket/folder), or - for standard input.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=complete_model,
            rich_help_panel=WHAT,
            show_default=f"{DEFAULT_MODEL}, which is inside sepcli",
            help="A name from `sepcli models list`; or your own checkpoint file or run folder; or NAME=FILE "
            "(a file for the catalogue's model NAME); or hf://owner/repo[@revision]/file. Several side by "
            "side: A+B, with weights A:2+B.",
        ),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option(
            "--blend",
            metavar="WAY",
            rich_help_panel=WHAT,
            callback=_one_of(BLENDS),
            autocompletion=lambda: list(BLENDS),
            help="How a stem of several models becomes one: mean, median, or the value of least or largest "
            f"size, of samples or of spectra: {', '.join(BLENDS)}. Default: {BLENDS[0]}, or as the catalogue "
            "says.",
        ),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar='"STEM: MODEL"',
            rich_help_panel=WHAT,
            help='Give a stem to another model, whose stems replace it; repeatable: --then "vocals: '
            'karaoke-becruily" --then "lead: dereverb-anvuew". Then -t vocals and -t vocals-rest also write '
            "that stem, and what the other model leaves of it.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="YAML",
            rich_help_panel=WHAT,
            help="The YAML of the training toolkit (MSST) that belongs to a checkpoint of --model: a file or "
            "hf://owner/repo/file. One beside the checkpoint that is called like it is found without this.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--target",
            metavar="STEM",
            autocompletion=complete_stem,
            rich_help_panel=WHAT,
            help="Make only this stem, with only the work that it needs; repeatable. Also: instrumental, "
            "acapella, karaoke, no_STEM. Default: all stems of the model.",
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query",
            metavar="[NAME=]FILE",
            rich_help_panel=WHAT,
            help="A recorded example of the sound to take out, for a model that takes queries; repeatable. "
            "Each makes one stem, called NAME or like the file. -t adds other stems.",
        ),
    ] = None,
    rest: Annotated[
        bool,
        typer.Option(
            "--rest",
            rich_help_panel=WHAT,
            help="Also write the rest, which is the mix minus the stems that are asked for. The file is called "
            "no_STEM for one stem, rest for several.",
        ),
    ] = False,
    submix: Annotated[
        list[str] | None,
        typer.Option(
            "--submix",
            metavar="NAME=SUM",
            rich_help_panel=WHAT,
            help="Also write a sum of stems and of mix, the input, each with a gain if need be: "
            "no_drums=mix-drums or practice=vocals*-12dB+bass+drums*0.5; repeatable. With -t NAME it is "
            "written without the stems.",
        ),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option(
            "--two-stems",
            metavar="STEM",
            autocompletion=complete_stem,
            rich_help_panel=WHAT,
            help="The same as -t STEM --rest.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="TIME",
            rich_help_panel=WHAT,
            help="Begin at this time in each input: seconds, mm:ss or hh:mm:ss.",
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration", metavar="TIME", rich_help_panel=WHAT, help="Separate only this much of each input."
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            rich_help_panel=WHAT,
            help="For a first listen: separate only the loudest 30 seconds (or --duration) of each input, as a "
            "track called TRACK (preview).",
        ),
    ] = False,
    audio_track: Annotated[
        str | None,
        typer.Option(
            "--audio-track",
            metavar="N|LANG|TITLE",
            rich_help_panel=WHAT,
            help="For files with several audio tracks: the number, the language or the title of the one to "
            "separate. Default: the track that the file marks as its default.",
        ),
    ] = None,
    catalog: Annotated[list[Path] | None, catalogs(WHAT)] = None,
    options: Annotated[list[str] | None, model_options(WHAT)] = None,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            rich_help_panel=WHERE,
            help="The output folder, or its address (s3://bucket/folder). With - the WAV of exactly one stem "
            "goes to standard output.",
        ),
    ] = "separated",
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            show_default=DEFAULT_TEMPLATE,
            rich_help_panel=WHERE,
            help="How files are named in the output folder. {parent} (the input's folder), {trackext} (its "
            "suffix), {tracknumber} and {stemnumber} can be used as well.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="|".join(LAYOUTS),
            callback=_one_of(LAYOUTS),
            autocompletion=lambda: list(LAYOUTS),
            rich_help_panel=WHERE,
            help="A template by its name: a folder of stems for each track (as usual), a folder of tracks for "
            "each stem, or TRACK - STEM without folders.",
        ),
    ] = None,
    player: Annotated[
        bool,
        typer.Option(
            "--player",
            rich_help_panel=WHERE,
            help="Also write a page beside each track's stems that plays them in a browser, without a network: "
            "solo, mute, level, loop. `sepcli open DIR` opens it.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            rich_help_panel=WHERE,
            help="Make everything again, and replace whatever is in the way: also files that sepcli did not "
            "make, or that were changed since.",
        ),
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            callback=_one_of(FORMATS),
            autocompletion=lambda: list(FORMATS),
            rich_help_panel=FILES,
            help=f"{listed(LOSSLESS, 'and')} are exact; the others are lossy. stem.mp4 is one file for DJs, "
            "with the mix and four stems that add up to it: MODEL/TRACK.stem.mp4.",
        ),
    ] = "wav",
    depth: Annotated[
        str,
        typer.Option(
            "--bit-depth",
            metavar="|".join(DEPTHS),
            callback=_one_of(DEPTHS),
            autocompletion=lambda: list(DEPTHS),
            rich_help_panel=FILES,
            help="For exact formats, in bits; 32f is float. keep: as the input, but at least 16; 24 if the "
            "input is lossy. For stem.mp4, 16 or 24 make it exact.",
        ),
    ] = "keep",
    bitrate: Annotated[
        int | None,
        typer.Option(
            "--bitrate",
            metavar="KBITS",
            min=1,
            rich_help_panel=FILES,
            help=f"For lossy formats, in kbit/s, of each track in stem.mp4. Default: {_default_bitrates()}.",
        ),
    ] = None,
    samplerate: Annotated[
        str,
        typer.Option(
            "--sample-rate",
            metavar="keep|model|HZ",
            rich_help_panel=FILES,
            help="keep: as the input; model: as the model works.",
        ),
    ] = "keep",
    no_tags: Annotated[
        bool,
        typer.Option("--no-tags", rich_help_panel=FILES, help="Leave out the tags and cover of the input."),
    ] = False,
    video: Annotated[
        bool,
        typer.Option(
            "--video",
            rich_help_panel=FILES,
            help="Of a video make videos: the picture, copied untouched, with the stem as its sound, such as "
            "STEM.mp4. The sound is AAC, in WebM Opus, or what --format says.",
        ),
    ] = False,
    clip: Annotated[
        Clip | None,
        typer.Option(
            "--clip",
            metavar="|".join(Clip),
            rich_help_panel=LEVELS,
            show_default=False,
            help="What happens if a stem would exceed full scale. gain (default, except for float files): "
            "all stems of the track get lower by the same amount; clamp: peaks are cut off; none: the "
            "format decides. Float is never clamped.",
        ),
    ] = None,
    sum: Annotated[
        Sum,
        typer.Option(
            "--sum",
            metavar="|".join(Sum),
            rich_help_panel=LEVELS,
            help="exact: the files add up to the input, sample by sample. What the model leaves over goes "
            "into the rest, or else into `other`. With -t, or a model of one stem, it implies --rest.",
        ),
    ] = Sum.none,
    skip_silent: Annotated[
        bool,
        typer.Option(
            "--skip-silent",
            rich_help_panel=LEVELS,
            help="Write no file of a stem that is silent throughout: nowhere above -60 dBFS (RMS of 100 ms).",
        ),
    ] = False,
    device: Device = "auto",
    precision: ModelPrecision = Precision.auto,
    overlap: Annotated[
        float,
        typer.Option(
            "--overlap",
            metavar="SHARE",
            rich_help_panel=COMPUTE,
            help="The share of a segment that the next segment covers, from 0 to less than 1.",
        ),
    ] = 0.25,
    segment: Segment = None,
    shifts: Shifts = 0,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            rich_help_panel=COMPUTE,
            help="For everything that is random: the same seed gives the same result.",
        ),
    ] = 0,
    batch_size: BatchSize = "auto",
    compile: Annotated[
        Compile,
        typer.Option(
            "--compile",
            metavar="|".join(Compile),
            rich_help_panel=COMPUTE,
            help="on: torch compiles the network for whole segments, which takes a while before the first "
            "track and needs a C++ compiler. auto is off: nowhere was it measured to pay.",
        ),
    ] = Compile.auto,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            rich_help_panel=COMPUTE,
            help="Of the CPU, for each track that is computed at a time. Other numbers give other roundings. "
            "Default: one for each core; with --ray up to 4.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            rich_help_panel=BATCH,
            help="Skip tracks whose stems are there already, made from the same input with the same settings; "
            "make only those that are missing.",
        ),
    ] = True,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            rich_help_panel=BATCH,
            help="Write nothing for a damaged input, and call it failed. Default: separate what decodes, with "
            "silence in place of the rest.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            rich_help_panel=BATCH,
            help="Separate only part I of N of the inputs, so that N processes can share the work.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            rich_help_panel=BATCH,
            help="Go on: separate what arrives in the folders, once it has stopped growing, until Ctrl-C or "
            "SIGTERM.",
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="local|auto|HOST:PORT",
            rich_help_panel=BATCH,
            help="Separate tracks side by side on a Ray cluster (extra `ray`): one that is this machine, for "
            "this run; the one that runs here; or the one at that address. All nodes have to see inputs and "
            "outputs, or these are in an object store.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=BATCH, help="Only print what would be done.")
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", rich_help_panel=REPORT, help="Print one JSON object for each input on standard output."
        ),
    ] = False,
    progress: Annotated[
        ProgressStyle,
        typer.Option(
            "--progress",
            metavar="|".join(ProgressStyle),
            rich_help_panel=REPORT,
            help="How progress is shown on standard error. auto: bars on a terminal, else lines; json: one "
            "object a line.",
        ),
    ] = ProgressStyle.auto,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", rich_help_panel=REPORT, help="Print only errors.")
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            metavar="",
            show_default=False,
            rich_help_panel=REPORT,
            help="Print more; -vv also prints tracebacks.",
        ),
    ] = 0,
) -> None:
    """Separate music into stems.

    The stems are written to separated/MODEL/TRACK/STEM.wav, with the level, sample rate, length and bit depth
    of the input. A file appears under its name only when all stems of its track are complete. If a run was
    stopped, give the same command again: it goes on where it stopped.
    """
    console.report_as("json" if progress is ProgressStyle.json else "quiet" if quiet else "text", verbose)
    if two_stems is not None:
        if target:
            raise UsageError(
                "--two-stems STEM already means -t STEM --rest, so it can't go with -t.",
                remedy="Use -t and --rest for several targets.",
            )
        target, rest = [two_stems], True
    to_stdout = out == STDOUT
    if to_stdout and (json or dry_run or skip_silent or player or video):
        raise UsageError(
            "With -o - standard output is the stem, so --json, --dry-run, --skip-silent, --player and --video "
            "have no place there.",
            remedy="Leave them out, or choose a folder with -o.",
        )

    if watch and (to_stdout or dry_run or shard is not None):
        raise UsageError(
            "--watch goes on and on into a folder, so -o -, --dry-run and --shard have no place there.",
            remedy="Leave them out; several processes that watch one folder share the work by themselves.",
        )

    if ray is not None and (watch or to_stdout or dry_run):
        raise UsageError(
            "--ray separates a batch into a folder, so --watch, -o - and --dry-run have no place there.",
            remedy="Leave them out; what a run without --ray would do, --dry-run shows without it.",
        )

    from sepcli.system.remote import is_remote

    if watch and is_remote(next(filter(is_remote, [*inputs, out]), "")):
        raise UsageError(
            "--watch waits for files in folders of this machine and writes to one: it takes no addresses.",
            remedy="Leave --watch out, and give the same command from time to time: what is done is skipped.",
        )

    from sepcli.batch.inputs import parse_shard
    from sepcli.batch.outputs import choose_template
    from sepcli.batch.outputspec import OutputSpec
    from sepcli.batch.request import Request
    from sepcli.batch.submixes import parse_submixes
    from sepcli.engine.settings import Settings
    from sepcli.weights.catalog import load_catalog

    spec = OutputSpec(
        format=format,
        depth=depth,
        bitrate=bitrate,
        samplerate=parse_rate(samplerate),
        clip=clip.value if clip else None,
        sum=sum.value,
        rest=rest,
        tags=not no_tags,
        skip_silent=skip_silent,
        video=video,
    )
    remote = None
    if is_remote(out):
        from sepcli.batch.remote import RemoteOut

        remote = RemoteOut(out)
    request = Request(
        model=model or DEFAULT_MODEL,
        config=config,
        blend=blend or "",
        then=tuple(then or ()),
        out=Path(os.path.expanduser(out)) if remote is None else remote.path,
        remote=remote,
        targets=tuple(dict.fromkeys(target or ())),
        queries=tuple(query or ()),
        submixes=parse_submixes(submix or ()),
        template=choose_template(template, layout, packs=spec.packs),
        spec=spec,
        start=parse_time(start, "--start") if start is not None else 0.0,
        duration=parse_time(duration, "--duration") if duration is not None else None,
        preview=preview,
        audio_track=audio_track,
        player=player,
        settings=Settings(overlap, segment, shifts, seed, parse_batch_size(batch_size), compile is Compile.on),
        device=device,
        threads=threads,
        ray=ray,
        precision=precision.value,
        options=parse_options(options or ()),
        resume=resume,
        force=force,
        strict=strict,
        shard=parse_shard(shard) if shard is not None else None,
    )
    models = load_catalog(catalog or ())
    if model is None and not console.is_quiet():
        _say_which_model(models, request.targets)
    bars = progress is ProgressStyle.auto and not quiet
    if to_stdout:
        raise typer.Exit(runs.to_stdout(request, inputs, models, bars, verbose))
    if watch:
        raise typer.Exit(runs.watch_folders(request, inputs, models, json, bars, verbose))
    batch, named = runs.look_up_batch(request, inputs, models)
    if dry_run:
        raise typer.Exit(runs.plan(batch, named, json))
    raise typer.Exit(runs.separate(batch, named, json, bars, verbose)[0])


def _say_which_model(models: Catalog, targets: tuple[str, ...]) -> None:
    """Nobody chose the small model: say what it is good for, and which one is best for the wanted stem."""
    from sepcli.cli.finding import best_for, size_text

    better, stems = models[STUDIO_MODEL], "stems"
    if len(targets) == 1:
        with suppress(UsageError):  # no stem of any model; the lookup says so
            better, stems = best_for(models, targets[0]), targets[0]
    console.say(
        f"Model: {DEFAULT_MODEL}, small and quick, inside sepcli: for voices and drafts. "
        f"Better {stems}, as its authors report, by --model {better.name} (a download: {size_text(better)})."
    )


def parse_rate(text: str) -> str | int:
    """ "44100" -> 44100; a word stays one, and OutputSpec judges it."""
    return int(text) if text.isdecimal() else text
