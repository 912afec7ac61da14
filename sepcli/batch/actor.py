"""What runs on a node of a Ray cluster: one Worker, in an actor.

Knows the node, and nothing of the cluster or of other tracks. Where inputs are at addresses, or stems go to
one, they pass through a work folder of this node; otherwise all files are where every node sees them.

    Work --> (fetch the input) - Worker.make - (put the stems aside, without their names) --> Made
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli import __version__
from sepcli.batch.model import Model
from sepcli.batch.names import Named, Stems
from sepcli.batch.request import Batch
from sepcli.batch.results import Listener
from sepcli.batch.transit import at_hand
from sepcli.batch.worker import Made, Work, Worker
from sepcli.batch.workspace import Workspace
from sepcli.errors import DeviceError, InputError, SepcliError, Spelling, parameter, spell
from sepcli.system.files import content_sha256
from sepcli.system.memory import own_memory

if TYPE_CHECKING:
    from sepcli.engine.device import Device, Precision


@dataclass(frozen=True)
class Told:
    """What an actor has to say when it has done what it was told, or is asked how far it is."""

    answer: Any
    notices: list[str] = field(default_factory=list)
    memory: int | None = None  # bytes that it takes (0: nothing tells), once it has separated something


class Actor:
    """One Worker. What it is told to do, it does in one thread; `look` has another."""

    def __init__(
        self, batch: Batch, folder: Path, threads: int, cwd: str, rule: Spelling, version: str
    ) -> None:
        self._batch, self._folder, self._threads, self._version = batch, folder, threads, version
        self._heard = _Heard()
        self._worker: Worker | None = None
        self._at: tuple[Any, ...] | None = None
        self._memory: int | None = None  # bytes; see Told
        self._own: Workspace | None = None  # of this node
        spell(rule)
        with suppress(OSError):  # paths that were given as relative ones
            os.chdir(cwd)

    def where(self, kind: str, half: bool) -> tuple[str, Device, Precision]:
        """The node's identity in the cluster, its device, and what the batch is computed in."""
        import ray

        return ray.get_runtime_context().get_node_id(), *self._device(kind, half)

    def _device(self, kind: str, half: bool) -> tuple[Device, Precision]:
        from sepcli.engine.device import choose_device, choose_precision

        if self._version != __version__:
            raise DeviceError(
                f"The node {platform.node()} has sepcli {__version__}, and this is {self._version}.",
                remedy="Install the same version on all nodes.",
                code="cluster",
            )
        out = self._batch.request.remote
        if out is not None:
            with _on_this_node():
                out.check_writable()
        elif not self._folder.is_dir():
            raise DeviceError(
                f"The node {platform.node()} does not see the output folder ('{self._folder.parent}').",
                remedy=f"Choose a folder that all nodes share with {parameter('out')}.",
                code="cluster",
            )
        device = choose_device(kind)
        return device, choose_precision(self._batch.request.precision, device, half)

    def load(self, kind: str, precision: str, stems: Stems) -> Told:
        """Get the model ready: (origin, hashes) of its weights."""
        from sepcli.engine.device import choose_precision, tune_process

        device, _ = self._device(kind, half=False)
        tune_process(self._threads)
        self._worker = Worker(
            Model(self._batch, self._heard),
            device,
            choose_precision(precision, device, half=False),
            self._folder if self._batch.request.remote is None else self._here().path,
            self._heard,
        )
        if stems.targets:
            self._worker.load(stems)
        return Told(self._heard.weights, self._heard.take())

    def make(self, number: int, work: Work) -> Told:
        """Carry the Work out: its Made."""
        assert self._worker is not None

        def progress(done: float, total: float | None) -> None:
            self._at = number, done, total
            if done and not work.parts:
                self._memory = own_memory() or 0

        try:
            with _on_this_node(), self._at_hand(work) as here:
                made = self._worker.make(here, progress)
                return Told(self._handed_over(made, here), self._heard.take(), self._memory)
        finally:
            self._at = None

    @contextmanager
    def _at_hand(self, work: Work) -> Iterator[Work]:
        """The Work with a file that is here, and with a folder on this node where its files go elsewhere."""
        out = self._batch.request.remote
        if work.track.source.remote is None and out is None:
            self._check_seen(work.track.file)
            yield work
            return
        with self._here().track() as folder:
            named = Named(self._batch, work.stems, ())
            track = at_hand(work.track, named, folder, self._here().folder)
            self._check_seen(track.file)
            yield replace(work, track=track, folder=work.folder if out is None else folder)

    def _check_seen(self, file: Path | None) -> None:
        assert file is not None
        if not file.exists():
            raise InputError(
                f"The node {platform.node()} does not see '{file}'.",
                remedy="The inputs of a run on a cluster have to be where all nodes see them.",
                code="missing",
            )

    def _handed_over(self, made: Made, work: Work) -> Made:
        """The same for another machine: what was fetched has its hash, and files are where they can be had."""
        out, track = self._batch.request.remote, work.track
        if track.source.remote is not None and track.file is not None:
            made = replace(made, sha256=content_sha256(track.file))
        if out is not None and made.files is not None:
            made = replace(made, files=replace(made.files, files=out.put_aside(made.files.files)))
        return made

    def _here(self) -> Workspace:
        """The work folder on this node. One that a killed actor has left here is removed."""
        if self._own is None:
            self._own = Workspace(Path(tempfile.gettempdir()))
        return self._own

    def end(self) -> None:
        """Leave nothing on this node."""
        if self._own is not None:
            self._own.close()

    def look(self) -> Told:
        """How far it is: (number, audio seconds, of so many) of a Work, or bytes and all of a download."""
        return Told(self._at or self._heard.download, memory=self._memory)


class _Heard(Listener):
    """Keeps what an actor has to say until it is asked."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.weights: tuple[str, tuple[str, ...]] | None = None
        self.download: tuple[int, int | None] | None = None

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def loaded(self, origin: str, hashes: Sequence[str]) -> None:
        self.weights = origin, tuple(hashes)

    @contextmanager
    def downloading(self) -> Iterator[Callable[[int, int | None], None]]:
        def progress(done: int, total: int | None) -> None:
            self.download = done, total

        try:
            yield progress
        finally:
            self.download = None

    def take(self) -> list[str]:
        """The notices since the last time."""
        taken, self.notices = self.notices, []
        return taken


@contextmanager
def _on_this_node() -> Iterator[None]:
    """An error about credentials says whose they are."""
    try:
        yield
    except SepcliError as error:
        if error.code != "denied":
            raise
        raise type(error)(
            f"On the node {platform.node()}: {error.message}",
            remedy="A worker has the variables with which `ray start` was given on its node, and that node's "
            "files of credentials.",
            code=error.code,
        ) from error
