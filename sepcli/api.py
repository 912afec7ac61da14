"""The Python interface: models by name, stems of an array, stems of a file.

    import sepcli

    model = sepcli.load("htdemucs")                             # once
    stems = sepcli.separate(model, audio, 48000)                # {"drums": [2, T], ...}, as long as audio
    done = sepcli.separate_file("song.flac", "stems", model=model, targets=["vocals"], rest=True)
    done = sepcli.separate_file("song.flac", "stems", model=model, submixes={"no_drums": "mix-drums"})

Knows how the parts are put together and adds nothing to them. All errors that a caller can act on are
sepcli.SepcliError, with .message, .remedy and .code; the subclasses are in sepcli.errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sepcli.batch.inputs import Source
from sepcli.batch.names import PREVIEW, Stems, guard_inputs, name_files
from sepcli.batch.outputs import check_pages, check_writable, choose_template, page_folder, rest_name
from sepcli.batch.outputspec import OutputSpec
from sepcli.batch.pages import doubled, license_of, not_written, put_page, settings_text
from sepcli.batch.queries import Query, load_asked, make_queries, narrow, needs_one
from sepcli.batch.request import Request, check_understood, output_spec
from sepcli.batch.track import Rendered, loudest_part, render
from sepcli.batch.words import Meaning, meaning
from sepcli.batch.workspace import Workspace, publish, remove
from sepcli.engine.device import choose_device, choose_precision
from sepcli.engine.pipeline import Engine, Progress
from sepcli.engine.separator import Separator
from sepcli.engine.settings import Settings
from sepcli.engine.streams import separated
from sepcli.errors import InputError, SepcliError, UsageError, Warned, parameter
from sepcli.player.page import About, Stem
from sepcli.sound.levels import Levels, Scale
from sepcli.sound.measures import StemLevels
from sepcli.sound.probe import probe
from sepcli.weights.catalog import DEFAULT_MODEL, load_catalog
from sepcli.weights.modelspec import read_model

if TYPE_CHECKING:
    from sepcli.batch.queries import Audio
    from sepcli.weights.entries import Entry

_BLOCK_FRAMES = 65536


def load(
    name: str,
    *,
    config: str | None = None,
    targets: Sequence[str] | None = None,
    queries: Mapping[str, Audio] | None = None,
    options: Mapping[str, str] | None = None,
    blend: str = "",
    then: Sequence[str] = (),
    notice: Callable[[str], None] = lambda text: None,
) -> Separator:
    """The model of that name, on the CPU and in eval mode; downloaded first where it is not cached.

    name: as for `sepcli separate --model`: a catalogue name, a path, NAME=FILE or hf://owner/repo/file; or
    several with + between them, as "a:2+b" with weights. blend: how the stems of several become one
    (docs/cli.md); "": their mean, or as the catalogue says. then: models after it, "STEM: MODEL" each: that
    model takes this stem apart, and its stems replace it. With targets, also the stems that models take apart
    ("vocals") and what they leave ("vocals-rest") can be had.
    config: the YAML of the training toolkit that belongs to a checkpoint, a path or hf://owner/repo/file; one
    beside the checkpoint that is called like it is found without this.
    targets: the stems it is to make, None for all; what only other stems need is not even downloaded. Their
    case does not count.
    queries: for a model that takes them, {stem: example of its sound}: a file, or ([C, T] floats, Hz). Their
    stems come after the targets; without targets they are the only ones.
    options: the model's own, as for `-O key=value`. notice: called with sentences for the user.

    The result is a torch module with `sources`, `samplerate` (Hz), `channels`; its `forward` takes one
    segment (several models side by side have none), `separate` a mix of any length. ModelError where it can't
    be had; UsageError for a stem or option that it lacks, or a query that can't be.
    """
    examples = make_queries(queries or {}, targets or ())
    catalog = load_catalog()
    spec, meant = _understood(
        name, targets, examples, config=config, options=options, blend=blend, then=then, notice=notice
    )
    if meant.submixes:
        submix = meant.submixes[0]
        raise UsageError(
            f"'{submix.name}' is the mix minus {', '.join(submix.stems)}, which no model makes.",
            remedy=f"Load {', '.join(submix.stems)}; separate and separate_file know the word.",
            code="unknown_stem",
        )
    if not isinstance(spec, str):
        model = narrow(spec, meant.targets, examples, name=name)
    else:
        model = load_asked(
            spec,
            meant.targets or None,
            examples,
            catalog=catalog,
            config=config,
            options=options,
            blend=blend,
            then=then,
            notice=notice,
        ).model
    model.name = read_model(name, catalog, then=then).name
    return model


def separate(
    model: str | Separator,
    audio: ArrayLike,
    samplerate: int,
    *,
    targets: Sequence[str] | None = None,
    queries: Mapping[str, Audio] | None = None,
    submixes: Mapping[str, str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    overlap: float = 0.25,
    segment: float | None = None,
    shifts: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    compile: bool = False,
    progress: Progress | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Take a mix apart in memory: {stem: [C, T] float32}, each with the mix's channels, rate and length.

    model: what `load` gave, or a name for it. audio: [C, T] floats, full scale at 1.0 (more is allowed), at
    `samplerate` Hz; up to 8 channels in WAV order. targets: the wanted stems, None for all; also "instrumental"
    and the other words of docs/cli.md. queries: as for `load`; a model that was loaded without them takes them
    here. submixes: sums of stems and of the mix, which come after the stems: {"no_drums": "mix-drums",
    "practice": "vocals*-12dB+bass"}.
    overlap: share of a segment that the next one covers, 0 to below 1. segment: seconds, None for the model's.
    shifts: passes at random offsets that are averaged. batch_size: segments a call, None for what fits.
    compile: let torch compile the network, which takes minutes at first.
    progress: called with (audio seconds done, audio seconds in all).

    Levels are untouched: what the model gives comes back, beyond full scale too. Only a resampler and the
    model's own chunking stand between. InputError: no samples, NaN or infinite ones, too many channels.
    UsageError: a shape, type, stem or value that can't be. ModelError, DeviceError: as `load`, or memory.
    """
    mix = _checked(audio, samplerate)
    examples = make_queries(queries or {}, targets or ())
    settings = Settings(overlap, segment, shifts, seed, batch_size, compile)
    model, meant = _understood(model, targets, examples, submixes=submixes)
    engine = _engine(model, meant.targets, examples, device, precision, settings)
    levels = Levels(engine.sources, submixes=meant.submixes, hidden=meant.hidden, scale=Scale.of("32f"))

    def read() -> Iterator[NDArray[np.float32]]:
        for start in range(0, mix.shape[1], _BLOCK_FRAMES):
            yield np.array(mix[:, start : start + _BLOCK_FRAMES], dtype=np.float32)

    made = np.empty((len(levels.files), *mix.shape), np.float32)
    at = 0
    with closing(separated(read, engine, samplerate, len(mix), progress)) as blocks:
        for block in blocks:
            end = at + block.shape[-1]
            made[..., at:end] = levels.combine(block, mix[:, at:end])
            at = end
    return {name: made[index] for index, name in enumerate(levels.files)}


@dataclass(frozen=True)
class TrackResult:
    """What `separate_file` made of one file."""

    outputs: dict[str, Path]  # stem, the submixes last -> path
    sizes: dict[str, int]  # bytes of each
    frames: int  # of every file
    samplerate: int  # Hz, of every file
    audio_seconds: float  # of the input, or its part
    wall_seconds: float  # that the work took
    gain: float = 1.0  # common to all files; below 1 only where one of them would have clipped
    damaged_seconds: float = 0.0  # of the input that could not be decoded, or is missing at its end
    warnings: list[Warned] = field(default_factory=list)  # sentences; each has a `code`, as in docs/cli.md
    levels: dict[str, StemLevels] = field(default_factory=dict)  # how loud each stem is
    silent: tuple[str, ...] = ()  # stems that have no file because they are silent (skip_silent)
    player: Path | None = None  # the page that plays the stems


def separate_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] = "separated",
    *,
    model: str | Separator = DEFAULT_MODEL,
    targets: Sequence[str] | None = None,
    queries: Mapping[str, Audio] | None = None,
    rest: bool = False,
    submixes: Mapping[str, str] | None = None,
    template: str | None = None,
    layout: str | None = None,
    format: str = "wav",
    bit_depth: str = "keep",
    bitrate: int | None = None,
    sample_rate: str | int = "keep",
    clip: str | None = None,
    sum: str = "none",
    tags: bool = True,
    skip_silent: bool = False,
    video: bool = False,
    audio_track: str | None = None,
    start: float = 0.0,
    duration: float | None = None,
    preview: bool = False,
    force: bool = False,
    player: bool = False,
    device: str = "auto",
    precision: str = "auto",
    overlap: float = 0.25,
    segment: float | None = None,
    shifts: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    compile: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> TrackResult:
    """Separate one file into files, of any length in constant memory, as `sepcli separate` does.

    path: audio or video. out: the folder; `template` names the files in it, and {model} in it stands for the
    catalogue's name of the model, for its file's without the suffix, or for its repository's. format:
    "stem.mp4" makes one file, called "stems" among the outputs; its levels are by track. queries,
    submixes: as for `separate`. Everything else is the command's option of the same name: times in seconds,
    sample_rate in Hz, bitrate in kbit/s. force: replace files that are there. video: of a video make videos.

    The files appear together, complete, under their final names, or none does. There is no manifest and no
    resuming here: that is the command's. TrackResult: paths, frames, Hz, the common gain, warnings.

    InputError: the file can't be separated. UsageError: a value or stem that can't be, or outputs that exist.
    OutputError: the files can't be written. ModelError, DeviceError: as `separate`.
    """
    asked = OutputSpec(format, bit_depth, bitrate, sample_rate, clip, sum, rest, tags, skip_silent, video)
    template = choose_template(template, layout, packs=asked.packs)
    request = Request(
        model=model if isinstance(model, str) else type(model).__name__.lower(),
        out=Path(out),
        spec=asked,
        settings=Settings(overlap, segment, shifts, seed, batch_size, compile),
        targets=tuple(dict.fromkeys(targets or ())),
        template=template,
        audio_track=audio_track,
        start=start,
        duration=duration,
        preview=preview,
        player=player,
        force=force,
    )
    loaded = "" if isinstance(model, str) else model.name or request.model
    known = None if loaded else read_model(request.model, load_catalog())
    named = known.name if known else loaded
    file = Path(path)
    spec = output_spec(request.spec, some=bool(targets or queries))
    examples = make_queries(queries or {}, request.targets, rest=spec.rest)
    info = probe(file, audio_track)  # a wrong path is said before a model is fetched
    model, meant = _understood(
        model, request.targets, examples, rest=spec.rest, submixes=submixes, notice=notice
    )
    own = model.sources if isinstance(model, Separator) else known and known.entry and known.entry.sources
    engine = _engine(model, meant.targets, examples, device, precision, request.settings)
    # The engine makes just the wanted stems; among the names, the queries' come last, as there.
    stems = Stems(engine.sources, (), meant.submixes, meant.hidden)
    if spec.rest_of(engine.sources):
        wanted = (*meant.targets, *(query.name for query in examples)) or engine.sources
        stems = stems.with_rest(rest_name([stem for stem in wanted if stem not in meant.hidden]))
    if spec.packs:
        stems = stems.packed(() if examples else own or engine.sources, format)
        hidden = tuple(stem for stem in engine.sources if stem not in stems.named)
        stems = replace(stems, named=engine.sources, hidden=hidden)
        if stems.pack is not None and stems.pack.notice:
            notice(stems.pack.notice)
    source = Source(str(file), os.fspath(path), file.name)
    (outputs,), notices = name_files(
        [source],
        stems.files,
        out=request.out,
        template=template,
        model=named,
        ext=spec.ext,
        preview=preview,
    )
    for text in notices:
        notice(text)
    if player:
        check_pages(template, [outputs])
    guard_inputs([source], examples, list(outputs.values()))
    there = [final for final in outputs.values() if os.path.lexists(final)]
    if there and not force:
        raise UsageError(
            f"The output '{there[0]}' exists.",
            remedy=f"Use {parameter('force', True)}, or another folder with {parameter('out')}.",
            code="exists",
        )
    check_writable(request.out)
    with Workspace(request.out) as work, work.track() as place:
        made = render(
            file,
            engine,
            spec,
            place,
            info=info,
            start=loudest_part(file, info, request.seconds) if preview and request.seconds else start,
            duration=request.seconds,
            submixes=stems.submixes,
            hidden=stems.hidden,
            pack=stems.pack,
            progress=progress,
        )
        publish([(unfinished, outputs[stem]) for stem, unfinished in made.files.items()])
        for stem in made.silent:
            remove(outputs[stem])
        page, problems = None, []
        if player and made.files:
            try:
                page = _page(request, named, known and known.entry, source, outputs, stems, made, work)
            except SepcliError as error:  # the stems are there
                problems = [not_written(error)]
    return TrackResult(
        outputs={stem: outputs[stem] for stem in made.files},
        sizes=made.sizes,
        frames=made.frames,
        samplerate=made.samplerate,
        audio_seconds=made.audio_seconds,
        wall_seconds=made.seconds,
        gain=made.gain,
        damaged_seconds=made.damaged_seconds,
        warnings=[*made.warnings, *problems],
        levels=dict(made.levels),
        silent=made.silent,
        player=page,
    )


def _page(
    request: Request,
    model: str,
    entry: Entry | None,
    source: Source,
    outputs: Mapping[str, Path],
    stems: Stems,
    made: Rendered,
    work: Workspace,
) -> Path:
    """The player's page beside stems that have their final names."""
    folder = page_folder(request.template, outputs)
    assert folder is not None, "checked before"
    muted = doubled(stems)
    return put_page(
        folder,
        About(
            source.track + (PREVIEW if request.preview else ""),
            model,
            license_of(entry),
            settings_text(request),
        ),
        [
            Stem(stem, outputs[stem], outputs[stem].relative_to(folder).as_posix(), muted=stem in muted)
            for stem in made.files
        ],
        work,
        force=request.force,
    )


def _understood(
    model: str | Separator,
    targets: Sequence[str] | None,
    queries: Sequence[Query],
    *,
    rest: bool = False,
    submixes: Mapping[str, str] | None = None,
    config: str | None = None,
    options: Mapping[str, str] | None = None,
    blend: str = "",
    then: Sequence[str] = (),
    notice: Callable[[str], None] = lambda text: None,
) -> tuple[str | Separator, Meaning]:
    """What targets and submixes mean for this model; and the model, loaded if nothing else tells its stems."""
    if not targets and not submixes:
        return model, Meaning(())
    catalog = load_catalog()
    if isinstance(model, str):
        name = model
        entry = read_model(name, catalog, then=then).entry
        if entry is None:
            loaded = load_asked(
                name,
                None,
                (),
                catalog=catalog,
                config=config,
                options=options,
                blend=blend,
                then=then,
                notice=notice,
            )
            model, sources, more = loaded.model, loaded.sources, loaded.more
        else:
            sources, more = entry.sources, entry.more
    else:
        name, sources, more = type(model).__name__, model.sources, model.more
    others = [query.name for query in queries]
    meant = meaning(
        tuple(targets or ()),
        sources,
        more,
        rest=rest,
        others=others,
        submixes=tuple((submixes or {}).items()),
        model=name,
        catalog=catalog,
    )
    check_understood(others, meant, rest=rest)
    for text in meant.notices:
        notice(text)
    return model, meant


def _engine(
    model: str | Separator,
    targets: Sequence[str] | None,
    queries: Sequence[Query],
    device: str,
    precision: str,
    settings: Settings,
) -> Engine:
    if isinstance(model, str):
        name, model = model, load_asked(model, targets, queries, catalog=load_catalog()).model
    else:
        name = type(model).__name__
        if targets or queries:
            model = narrow(model, tuple(dict.fromkeys(targets or ())), queries, name=name)
    if not model.sources:
        raise needs_one(name)
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen, model.half).dtype
    return Engine(model, settings, chosen.torch, dtype)


def _checked(audio: ArrayLike, samplerate: int) -> NDArray[Any]:
    mix = np.asarray(audio)
    if mix.ndim != 2:
        raise UsageError(
            f"The audio has the shape {list(mix.shape)}, but must be [channels, frames].",
            remedy="Give one channel as audio[None].",
            code="shape",
        )
    if mix.dtype.kind != "f":
        raise UsageError(
            f"The audio is of type {mix.dtype}, but must be floats with full scale at 1.0.",
            remedy="Divide integers by their full scale, 32768 for 16 bits.",
            code="type",
        )
    if int(samplerate) != samplerate or samplerate < 1:
        raise UsageError(
            f"The sample rate {samplerate} is not a whole number of Hz above 0.", remedy="Give it in Hz."
        )
    if mix.shape[0] > mix.shape[1] > 0 and mix.shape[0] > 8:
        raise UsageError(
            f"The audio has {mix.shape[0]} channels and {mix.shape[1]} frames: the axes seem to be swapped.",
            remedy="Give [channels, frames]: audio.T.",
            code="shape",
        )
    if mix.size == 0:
        raise InputError("The audio has no samples.", remedy="Give at least one frame.", code="no_frames")
    if not np.isfinite(mix).all():
        raise InputError(
            "The audio has samples that are NaN or infinite.",
            remedy="Replace them first, with numpy.nan_to_num for instance.",
            code="not_finite",
        )
    return mix
