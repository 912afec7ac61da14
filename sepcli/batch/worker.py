"""One loaded model, and what it makes of one track's file: the part of a run that can be on another machine.

Knows the model, its device and files; neither the manifest nor final names, nor that there are other tracks.

    Work: a track, the stems wanted, a folder   ->   Made: complete files in that folder, and what made them

`Workers` is what a batch asks of whoever carries its Works out. Here it is one Worker in this process; those on
a cluster are cluster.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sepcli.batch.model import Model
from sepcli.batch.names import Stems, Track
from sepcli.batch.results import Listener

if TYPE_CHECKING:
    from sepcli.batch.track import Rendered
    from sepcli.engine.device import Device, Precision
    from sepcli.engine.pipeline import Engine
    from sepcli.loading import Loaded

Progress = Callable[[float, float | None], None]  # (audio seconds done, audio seconds in all or None)


@dataclass(frozen=True)
class Work:
    """What is to be made of a track."""

    track: Track  # with a file, but for workers that fetch
    stems: Stems  # with their submixes
    folder: Path  # for the unfinished files; exists
    start: float | None  # seconds into the input; None: the loudest part is looked for
    parts: Mapping[str, Path] = field(
        default_factory=dict
    )  # stems that stand: their sum is all there is to make


@dataclass(frozen=True)
class Made:
    """What became of it."""

    files: Rendered | None  # None: the parts hold less than the model gives
    start: float  # seconds into the input
    origin: str | None = None  # of the weights; None where no model was needed
    options: Mapping[str, Any] = field(default_factory=dict)  # the model's own, as they were used
    sha256: str | None = None  # of an input at an address that the worker has fetched itself


class Workers(Protocol):
    """Carry out Works, in whichever order. Errors of a Work are given back, others are the whole run's.

    fetch: whether they fetch what is at an address themselves, and put there what they have made.
    """

    fetch: bool
    device: Device

    def begin(self, half: bool, folder: Path) -> Precision:
        """What they compute in. half: whether the model may run in reduced precision. folder: of the run."""
        ...

    def load(self, stems: Stems, tracks: int) -> None:
        """Get ready for these stems of so many tracks. An error ends the whole run."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether another Work should be given to them now."""
        ...

    def give(self, number: int, work: Work) -> None:
        """Something to do. number: by which `take` tells it from others."""
        ...

    def take(self) -> tuple[int, Made | Exception]:
        """Wait until one of the Works is done, or has failed."""
        ...

    def abandon(self) -> None:
        """Forget the Works that were not taken. Nobody writes into their folders any more."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class Worker:
    """The model on one device. Engines for different stems share its weights."""

    def __init__(self, model: Model, device: Device, precision: Precision, folder: Path, listener: Listener):
        self.model, self.device, self.precision = model, device, precision
        self.batch, self.request = model.batch, model.batch.request
        self.folder, self.listener = folder, listener
        self._engines: dict[tuple[str, ...], Engine] = {}  # by the stems that they make
        self._announced: Loaded | None = None  # whose notices the listener has

    def load(self, stems: Stems) -> Engine:
        """The engine for exactly these stems."""
        from sepcli.engine.pipeline import Engine

        engine = self._engines.get(stems.targets)
        if engine is None:
            loaded = self.model.load(stems)
            model = loaded.model
            if loaded is not self._announced:
                self._announced = loaded
                self.listener.loaded(loaded.origin, loaded.hashes)
                for text in model.notices(self.device.torch):
                    self.listener.notice(text)
            if tuple(model.sources) != stems.targets:
                model = model.select(stems.targets)
            engine = Engine(model, self.request.settings, self.device.torch, self.precision.dtype, self.folder)
            self._engines[stems.targets] = engine
        return engine

    def make(self, work: Work, progress: Progress) -> Made:
        """Carry it out. The errors of `track.render`."""
        start = self._start(work.track) if work.start is None else work.start
        files = self._submixes(work, start, progress) if work.parts else self._stems(work, start, progress)
        loaded = self.model.loaded
        if loaded is None:
            return Made(files, start)
        return Made(files, start, loaded.origin, dict(loaded.model.used()))

    def _start(self, track: Track) -> float:
        """Where the loudest part begins, in seconds."""
        from sepcli.batch.track import loudest_part
        from sepcli.sound.probe import probe

        assert track.file is not None and self.request.seconds is not None
        info = probe(track.file, self.request.audio_track)
        start = loudest_part(track.file, info, self.request.seconds)
        if start > 0:
            length = f"{self.request.seconds:g} s"
            self.listener.notice(f"{track.source.name}: the loudest part of {length} begins at {start:g} s.")
        return start

    def _stems(self, work: Work, start: float, progress: Progress) -> Rendered:
        """By the model."""
        from sepcli.batch.track import render
        from sepcli.sound.probe import probe

        assert work.track.file is not None
        return render(
            work.track.file,
            self.load(work.stems),
            self.batch.spec,
            work.folder,
            info=probe(work.track.file, self.request.audio_track),
            start=start,
            duration=self.request.seconds,
            submixes=work.stems.submixes,
            hidden=work.stems.hidden,
            pack=work.stems.pack,
            progress=progress,
            stream=self.request.stream,
        )

    def _submixes(self, work: Work, start: float, progress: Progress) -> Rendered | None:
        """By the stems that stand; None where that would not be what the model gives."""
        from sepcli.batch.track import render_submixes
        from sepcli.sound.probe import probe

        assert work.track.file is not None
        return render_submixes(
            work.track.file,
            work.parts,
            work.stems.submixes,
            self.batch.spec,
            work.folder,
            model_rate=self.model.samplerate,
            info=probe(work.track.file, self.request.audio_track),
            start=start,
            duration=self.request.seconds,
            progress=progress,
        )


class Alone:
    """Workers that are one, in this process: a Work is done when its result is taken."""

    fetch = False

    def __init__(self, model: Model, listener: Listener):
        from sepcli.batch.hardware import remember
        from sepcli.engine.device import choose_device, tune_process

        request = model.batch.request
        tune_process(request.threads)
        self.device = remember(request.device, choose_device(request.device))
        self._model, self._listener = model, listener
        self._worker: Worker | None = None
        self._given: tuple[int, Work] | None = None

    def begin(self, half: bool, folder: Path) -> Precision:
        from sepcli.engine.device import choose_precision

        precision = choose_precision(self._model.batch.request.precision, self.device, half)
        self._worker = Worker(self._model, self.device, precision, folder, self._listener)
        return precision

    def load(self, stems: Stems, tracks: int) -> None:
        assert self._worker is not None
        if stems.targets:
            self._worker.load(stems)

    @property
    def has_room(self) -> bool:
        return self._given is None

    def give(self, number: int, work: Work) -> None:
        self._given = number, work

    def take(self) -> tuple[int, Made | Exception]:
        assert self._worker is not None and self._given is not None
        (number, work), self._given = self._given, None
        try:
            return number, self._worker.make(
                work, lambda done, total: self._listener.progress(work.track, done, total)
            )
        except Exception as error:  # noqa: BLE001  (whatever it is, the next track may be fine)
            return number, error

    def abandon(self) -> None:
        self._given = None

    def close(self) -> None:
        pass
