"""One track from its file to its stems' files, block by block.

Knows the order of the steps and nothing of how each is done. Memory does not depend on the track's length:
every stage holds a few blocks, and what has to wait for the whole track waits on the disk.

    first pass   decode - resample - channels - measure                  only for models that normalise
    main pass    decode - resample - channels | engine | channels - resample - levels - write
                 (a thread ahead)               (here)   (a thread behind)
    last pass    spool - levels at the gain - write                      only where clipping lowers the gain

Submixes with the mix in them, the rest among these, and exact sums need it at the output's rate: it is decoded
once more, in step with the stems.

Everything is written in one folder; the files get their final names later, and together, when all of them are
complete (workspace.publish). That is the caller's, who knows what has to be recorded before.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from math import log10
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sepcli.batch.outputspec import OutputSpec, Resolved
from sepcli.batch.packing import PACKED, Pack
from sepcli.batch.workspace import flush
from sepcli.engine.pipeline import Engine, Progress
from sepcli.engine.streams import Block, InputStream, MixStream, OutputStream
from sepcli.errors import InputError, Warned, from_os, parameter
from sepcli.sound.decode import AudioReader
from sepcli.sound.encode import AudioWriter
from sepcli.sound.formats import listed
from sepcli.sound.levels import Levels, PeakMeter, Scale
from sepcli.sound.losses import DAMAGES, Loss, said
from sepcli.sound.measures import StemLevels, StemMeter
from sepcli.sound.probe import AudioInfo, probe
from sepcli.sound.remux import check_picture, put_sound
from sepcli.sound.resample import frames_at
from sepcli.sound.spool import Spool
from sepcli.sound.stemfile import StemFileWriter
from sepcli.sound.submix import Submix
from sepcli.sound.tags import read_tags
from sepcli.sound.writers import check_format
from sepcli.system.background import WriteBehind

# The engine hands on the samples of a whole batch at once, up to some hundred megabytes on a large GPU, so
# only one such block may wait for the writer.
WRITTEN_BEHIND = 1
_STEP = 0.1  # seconds from one beginning to the next, where the loudest part is looked for
_REST_FRAMES = 65536  # in a block of stems that are read again


@dataclass(frozen=True)
class Rendered:
    """The finished files of one track, under the names they have until they are published."""

    files: dict[str, Path]  # by stem, the submixes last
    sizes: dict[str, int]  # bytes of each
    frames: int  # of every file
    samplerate: int  # Hz, of every file
    audio_seconds: float  # of the input, or its part
    seconds: float  # that the work took
    gain: float = 1.0  # common to all files; below 1 only where one of them would have clipped
    damaged_seconds: float = 0.0  # of the input that could not be decoded, or is missing at its end
    warnings: tuple[Warned, ...] = ()
    levels: Mapping[str, StemLevels] = field(default_factory=dict)  # of each stem
    silent: tuple[str, ...] = ()  # stems that have no file because they are silent

    @property
    def damaged(self) -> bool:
        """Whether sound was lost."""
        return any(warning.code in DAMAGES for warning in self.warnings)


def render(
    source: Path,
    engine: Engine,
    spec: OutputSpec,
    folder: Path,
    *,
    info: AudioInfo | None = None,
    start: float = 0.0,
    duration: float | None = None,
    submixes: Sequence[Submix] = (),
    hidden: Collection[str] = (),
    pack: Pack | None = None,
    progress: Progress | None = None,
    stream: int | None = None,
) -> Rendered:
    """Separate the audio file `source` and write its stems, complete and flushed to the disk, into `folder`.

    engine: the model, narrowed to the wanted stems, ready on its device.
    folder: exists, is on the file system of the final names, and is removed by the caller.
    start, duration: seconds; the part of the file to separate. The mix in a submix is that part's.
    submixes: written too, of stems that the engine makes. hidden: stems that are not written.
    pack: of which of these one file is made.
    progress: called with (audio seconds done, audio seconds in all or None) of the main pass.
    stream: a descriptor that takes the stem, where it is only one, as soon as samples are final; no file then.

    InputError: the file has no samples that can be separated. OutputError: something can't be written.
    ModelError: the model gave samples that are not finite. DeviceError: memory ran out.
    """
    began = time.perf_counter()
    info = info or probe(source)
    plan = spec.resolve(info, engine.samplerate)
    check_format(plan.format, channels=info.channels, layout=info.layout, bitrate=plan.bitrate)
    if plan.video:
        check_picture(source, plan.video)
    levels = Levels(
        engine.sources, submixes=submixes, exact=plan.exact, scale=Scale.of(plan.depth), hidden=hidden
    )
    readers: list[AudioReader] = []

    def read(info: AudioInfo = info) -> AudioReader:
        """Reads the file again from its beginning."""
        readers.append(AudioReader(source, info, start=start, duration=duration))
        return readers[-1]

    with ExitStack() as stack:
        mix = InputStream(read, engine, info.samplerate, info.channels, info.layout)
        stack.callback(mix.close)
        mix.measure()
        again = None
        if levels.needs_mix:
            again = MixStream(read, info.samplerate, info.channels, plan.samplerate)
            stack.callback(again.close)
        frames = _frames_ahead(mix, info, start, duration, plan)
        if frames is not None:
            plan.check_size(frames, info.channels)
        files = _Files(folder, plan, info, levels, frames, start, stream, pack)
        stack.callback(files.abort)
        sink: _Sink = _Spooled(folder, files, again) if plan.spools else _Direct(files, again)
        stack.callback(sink.abort)
        out = OutputStream(mix, plan.samplerate)
        writer = stack.enter_context(
            WriteBehind[Tensor](lambda stems: sink.write(out.process(stems)), WRITTEN_BEHIND)
        )
        for stems in mix.separate(_with_total(progress, _seconds(mix, read()))):
            writer.put(stems)
        writer.close()
        sink.write(out.flush())
        gain = sink.finish()
        files.close()
        audio_seconds = mix.frames / info.samplerate
    if plan.video:
        files.put_pictures(next((reader for reader in readers if reader.begins is not None), readers[0]))
    losses = dict.fromkeys(loss for reader in readers for loss in reader.losses)
    channels = [Warned(mix.channel_map.notice, "channels")] if mix.channel_map.notice else []
    return _rendered(files, out.frames, audio_seconds, began, losses, progress, gain=gain, notices=channels)


def render_submixes(
    source: Path,
    stems: Mapping[str, Path],
    submixes: Sequence[Submix],
    spec: OutputSpec,
    folder: Path,
    *,
    model_rate: int,
    info: AudioInfo | None = None,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress | None = None,
) -> Rendered | None:
    """Write submixes of `source` and of stems that were separated from it before, into `folder`.

    stems: their files, complete and at their full level, made by the same `spec` from the same part.
    model_rate: Hz. The rest is as for `render`, and so are the errors.

    None where this would not be what the model gives: the files hold less than it (16 bits at another rate than
    the mix's, samples at full scale, which may have been cut off), they are not as long as the mix, or a submix
    would clip, so that its stems had to be lowered with it.
    """
    began = time.perf_counter()
    info = info or probe(source)
    plan = spec.resolve(info, model_rate)
    if not _holds_stems(plan, info):
        return None
    parts = {path: probe(path) for path in stems.values()}
    frames = next(iter(parts.values())).frames
    shapes = {(part.frames, part.samplerate, part.channels) for part in parts.values()}
    if frames is None or shapes != {(frames, plan.samplerate, info.channels)}:
        return None
    reader = AudioReader(source, info, start=start, duration=duration)
    scale = Scale.of(plan.depth)
    with ExitStack() as stack:

        def stream(reader: AudioReader) -> MixStream:
            blocks = MixStream(lambda: reader, reader.samplerate, info.channels, plan.samplerate)
            stack.callback(blocks.close)
            return blocks

        mix = stream(reader)
        streams = [stream(AudioReader(path, part)) for path, part in parts.items()]
        levels = Levels(list(stems), submixes=submixes, scale=scale, hidden=list(stems))
        files = _Files(folder, plan, info, levels, frames, start)
        stack.callback(files.abort)
        sink: _Sink = _Spooled(folder, files, mix) if plan.spools else _Direct(files, mix)
        stack.callback(sink.abort)
        try:
            for at in range(0, frames, _REST_FRAMES):
                block = np.stack([part.take(min(_REST_FRAMES, frames - at)) for part in streams])
                if scale.bits is not None and not plan.spools and _at_full_scale(block, scale):
                    return None
                sink.write(block)
                if progress:
                    progress(at / plan.samplerate, frames / plan.samplerate)
        except InputError as error:
            if error.code != "changed":
                raise
            return None  # the mix is shorter than the stems
        if not mix.ended():
            return None
        gain = sink.finish()
        if gain != 1:
            return None
        files.close()
    audio_seconds = reader.frames_read / info.samplerate
    return _rendered(files, frames, audio_seconds, began, reader.losses, progress)


def _rendered(
    files: _Files,
    frames: int,
    audio_seconds: float,
    began: float,
    losses: Collection[Loss],
    progress: Progress | None,
    *,
    gain: float = 1.0,
    notices: Sequence[Warned] = (),
) -> Rendered:
    """What closed files hold, once it is on the disk. began: by `time.perf_counter`. notices: of channels."""
    heard, silent = files.heard()
    if files.stream is not None:
        files.paths = {}
    sizes = {name: flush(path) for name, path in files.paths.items()}
    if progress:
        progress(audio_seconds, audio_seconds)
    return Rendered(
        files=files.paths,
        sizes=sizes,
        frames=frames,
        samplerate=files.plan.samplerate,
        audio_seconds=audio_seconds,
        seconds=time.perf_counter() - began,
        gain=gain,
        damaged_seconds=sum(loss.seconds for loss in losses if loss.code in DAMAGES),
        warnings=(
            *_about_track(files.info),
            *(Warned(text, "changed") for text in files.plan.notices),
            *notices,
            *said(losses),
            *files.warnings(gain),
        ),
        levels=heard,
        silent=silent,
    )


def _holds_stems(plan: Resolved, info: AudioInfo) -> bool:
    """Whether files hold stems as exactly as a model gives them (1e-5), or lose nothing against the mix."""
    if plan.depth == "16":
        return plan.samplerate == info.samplerate and info.depth in ("8", "16")
    return plan.depth != "lossy"


def _at_full_scale(block: Block, scale: Scale) -> bool:
    """Whether samples may have been cut off when the file was written."""
    return bool(block.max() >= scale.highest or block.min() <= scale.lowest)


def loudest_part(source: Path, info: AudioInfo, seconds: float) -> float:
    """Where the loudest part of that length begins, in seconds from the beginning of the file `source`.

    The loudest is the one with the largest sum of squares over all channels; the first, if several are. It
    begins at a multiple of _STEP; at 0 where the file is not longer than the part. InputError as for `render`.
    """
    step = max(1, round(_STEP * info.samplerate))  # frames
    energies: list[NDArray[np.float64]] = []  # of each step
    left = np.empty(0)
    for block in AudioReader(source, info):
        left = np.concatenate([left, np.square(block, dtype=np.float64).sum(axis=0)])
        whole = len(left) // step * step
        energies.append(left[:whole].reshape(-1, step).sum(axis=1))
        left = left[whole:]
    sums = np.cumsum(np.concatenate([np.zeros(1), *energies]))
    steps = max(1, round(seconds * info.samplerate / step))
    if len(sums) - 1 <= steps:
        return 0.0
    return float(np.argmax(sums[steps:] - sums[:-steps])) * step / info.samplerate


def _about_track(info: AudioInfo) -> list[Warned]:
    """Which audio track was taken, where there are several."""
    if len(info.tracks) < 2:
        return []
    taken = next(track for track in info.tracks if track.number == info.track)
    others = ", ".join(str(track) for track in info.tracks if track is not taken)
    text = f"Audio track {taken} was taken; {parameter('audio_track')} takes another one: {others}."
    return [Warned(text, "audio_track")]


def _frames_ahead(
    mix: InputStream, info: AudioInfo, start: float, duration: float | None, plan: Resolved
) -> int | None:
    """How many frames the files will have, where that is certain before the main pass."""
    frames = mix.frames_measured
    if frames is None and info.decoder == "soundfile":
        frames = AudioReader(info.path, info, start=start, duration=duration).expected
    return None if frames is None else frames_at(frames, info.samplerate, plan.samplerate)


def _seconds(mix: InputStream, reader: AudioReader) -> float | None:
    """How long the track is, as far as can be told before the main pass."""
    frames = mix.frames_measured or reader.expected
    return frames / reader.samplerate if frames else None


def _with_total(progress: Progress | None, seconds: float | None) -> Progress | None:
    """The engine knows the length of a track only at its end; a header often says it before."""
    if progress is None or seconds is None:
        return progress
    return lambda done, total: progress(done, total or max(seconds, done))


# ------------------------------------------------------------------------------------------------ writing


class _Files:
    """The unfinished files of a track; opened at the first block."""

    def __init__(
        self,
        folder: Path,
        plan: Resolved,
        info: AudioInfo,
        levels: Levels,
        frames: int | None,
        start: float,
        stream: int | None = None,
        pack: Pack | None = None,
    ):
        names = levels.files
        assert stream is None or len(names) == 1, names
        # Numbers and not stems: the names of some stems (of an audio query) are whatever the user typed.
        written = names if pack is None else [PACKED]
        self.paths = {name: folder / f"{i}.{plan.format}" for i, name in enumerate(written)}
        self.names = names
        self.pack = pack  # the tracks of the one file
        self.plan = plan
        self.info = info
        self.levels = levels
        self.frames = frames  # of each, None where not known
        self.start = start  # of the files in the input, seconds
        self.stream = stream  # a descriptor in the place of the one file
        self.meter = PeakMeter(len(names), levels.scale)  # of what was wanted, before any gain or clamping
        self._heard = [StemMeter(plan.samplerate, info.channels, info.layout) for _ in names]  # as written
        self._writers: list[AudioWriter | StemFileWriter] = []
        self._warnings: list[Warned] = []

    def write(self, block: np.ndarray) -> None:
        """Write a block [F, C, T] of `levels.combine` into all files."""
        if not self._writers:
            self._open()
        if self.plan.clamps:
            block = self.levels.clamp(block)
        for heard, samples in zip(self._heard, block, strict=True):
            integers = self.levels.integers
            heard.add((samples / self.levels.scale.steps).astype(np.float32) if integers else samples)
        if self.pack is not None:
            block = block[list(self.pack.tracks)][None]
        for writer, samples in zip(self._writers, block, strict=True):
            if self.levels.integers:
                writer.write_ints(samples.astype(np.int32))
            else:
                writer.write(samples)

    def _open(self) -> None:
        tags = None
        if self.plan.tags and not self.plan.video:
            rate = self.info.samplerate
            first = round(self.start * rate)  # frame
            tags = read_tags(self.info.path, self.info).moved(first, rate, self.plan.samplerate)
        if self.pack is not None:
            writer = StemFileWriter(
                self.paths[PACKED],
                self.pack.titles,
                samplerate=self.plan.samplerate,
                format=self.plan.format,
                depth=self.plan.depth,
                bitrate=self.plan.bitrate,
                tags=tags,
            )
            self._writers.append(writer)
            return
        for name in self.names:
            self._writers.append(
                AudioWriter(
                    self.paths[name] if self.stream is None else self.stream,
                    samplerate=self.plan.samplerate,
                    channels=self.info.channels,
                    format=self.plan.format,
                    depth=self.plan.depth,
                    bitrate=self.plan.bitrate,
                    tags=tags and tags.for_stem(name),
                    frames=self.frames,
                    layout=self.info.layout,
                )
            )

    def close(self) -> None:
        """Finish all files."""
        while self._writers:
            self._writers[0].close()
            self._warnings += self._writers[0].warnings
            del self._writers[0]  # only now: `abort` takes care of one that can't be closed

    def abort(self) -> None:
        """Stop writing, and remove what has been written."""
        for writer in self._writers:
            writer.abort()
        self._writers = []

    def put_pictures(self, reader: AudioReader) -> None:
        """Make videos of the closed files. reader: has read the input, and knows the times of its samples."""
        for name in self.names:
            sound = self.paths[name]
            self.paths[name] = sound.with_name(f"{sound.stem}.video.{self.plan.video}")
            try:
                left_out = put_sound(
                    self.info.path,
                    self.info.track,
                    reader.begins or Fraction(0),
                    reader.drifts,
                    sound,
                    self.paths[name],
                    container=self.plan.video,
                    stem=name,
                    tags=self.plan.tags,
                )
            except OSError as error:
                raise from_os(error, self.paths[name]) from error
            sound.unlink()
            if left_out:
                text = f"The {self.plan.video} files could not keep {listed(left_out, 'and')}."
                self._warnings.append(Warned(text, "video"))

    def heard(self) -> tuple[dict[str, StemLevels], tuple[str, ...]]:
        """How loud each stem is, and which are left out for that. Called once, when all files are closed."""
        levels = {name: heard.levels() for name, heard in zip(self.names, self._heard, strict=True)}
        if self.pack is not None:
            return {name: levels[name] for name in self.pack.sounds}, ()
        silent = tuple(name for name in self.names if self.plan.skip_silent and levels[name].silent)
        for name in silent:
            self.paths.pop(name).unlink()
        return levels, silent

    def warnings(self, gain: float) -> list[Warned]:
        """Sentences about what the files had to leave out, lower or cut off."""
        said = list(dict.fromkeys(self._warnings))
        if gain < 1:
            said.append(self._lowered(gain))
        if self.plan.clip == "gain" or not self.plan.clamps:
            return said
        said += [
            Warned(f"{count} samples of {name} were beyond full scale and were clamped.", "clamped")
            for name, count in zip(self.names, self.meter.clipped, strict=True)
            if count
        ]
        if self.levels.missed:
            text = (
                f"The stems do not add up exactly at {self.levels.missed} samples, where they were clamped; "
                f"{parameter('clip', 'gain')} keeps the sum."
            )
            said.append(Warned(text, "sum"))
        return said

    def _lowered(self, gain: float) -> Warned:
        """By how much, and for the sake of which files."""
        by = [name for name, count in zip(self.names, self.meter.clipped, strict=True) if count]
        text = f"All stems were lowered by {_decibels(gain)}, for {' and '.join(by)} would have clipped."
        if self.pack is None and set(by).isdisjoint(self.levels.stems):
            text += f" Without {'it' if len(by) == 1 else 'them'} the others would keep their level."
        return Warned(text, "lowered")


def _decibels(gain: float) -> str:
    """What a factor below 1 takes away."""
    lowered = -20 * log10(gain) if gain > 0 else float("inf")
    return f"{lowered:.2f} dB" if lowered >= 0.01 else "less than 0.01 dB"


class _Sink(Protocol):
    """Where the stems [K, C, T] go at the output's rate."""

    def write(self, stems: Block) -> None: ...

    def finish(self) -> float:
        """All stems have come: complete the files; the common gain."""
        ...

    def abort(self) -> None: ...


class _Direct:
    """Straight into the files, at the levels they have."""

    def __init__(self, files: _Files, mix: MixStream | None):
        self._files, self._mix = files, mix

    def write(self, stems: Block) -> None:
        if not stems.shape[-1]:
            return
        mix = self._mix.take(stems.shape[-1]) if self._mix else None
        block = self._files.levels.combine(stems, mix)
        self._files.meter.add(block)
        self._files.write(block)

    def finish(self) -> float:
        return 1.0

    def abort(self) -> None:
        pass


class _Spooled:
    """Onto the disk until the peaks of all files are known, then into the files at the common gain.

    The mix is spooled with the stems instead of what is made from it: exact sums are made from the mix's own
    samples at the final gain.
    """

    def __init__(self, folder: Path, files: _Files, mix: MixStream | None):
        self._files, self._mix = files, mix
        self._channels = files.info.channels
        self._spool = Spool(folder / "spool", self._channels * (len(files.levels.stems) + (mix is not None)))

    def write(self, stems: Block) -> None:
        frames = stems.shape[-1]
        if not frames:
            return
        mix = self._mix.take(frames) if self._mix else None
        self._files.meter.add(self._files.levels.combine(stems, mix))
        flat = stems.reshape(-1, frames)
        self._spool.write(flat if mix is None else np.concatenate([flat, mix]))

    def finish(self) -> float:
        levels = self._files.levels
        gain = levels.common_gain(self._files.meter)
        self._files.frames = self._spool.frames
        for flat in self._spool.blocks():
            block = flat.reshape(-1, self._channels, flat.shape[1])
            count = len(levels.stems)
            stems, mix = block[:count], block[count] if self._mix else None
            self._files.write(levels.combine(stems, mix, gain))
        return gain

    def abort(self) -> None:
        self._spool.close()
