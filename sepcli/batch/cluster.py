"""Workers on the nodes of a Ray cluster: the same Works, carried out there; everything else stays here.

Knows Ray, and nothing of manifests, names or what is shown. An actor holds one Worker. One process, this one,
decides, gives final names and writes the manifest, so a run on a cluster is a run like any other.

    here      Work --> queue --+--> actor on a node: Worker.make --> Made
                               +--> actor on another node
                               +--> ...                       files in the work folder, which all nodes see

There are as many actors as the nodes have room for: one a GPU, or one for so many cores. An actor that died
with its node is replaced where there is room, and its Work is given to another, in a folder of its own: who is
only cut off may still be writing. Nodes that join get actors too.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli import __version__
from sepcli.batch.model import Model
from sepcli.batch.names import Stems
from sepcli.batch.request import Batch
from sepcli.batch.results import Listener
from sepcli.batch.worker import Made, Work, Worker
from sepcli.errors import (
    DeviceError,
    InputError,
    SepcliError,
    Spelling,
    UsageError,
    first_line,
    parameter,
    require,
    spell,
    spelling,
)
from sepcli.system import HANGUP

if TYPE_CHECKING:
    from sepcli.engine.device import Device, Precision

LOCAL = "local"  # a cluster of this machine, for this run only
THREADS = 4  # of an actor on a CPU, where nothing else is asked for and the nodes have so many cores
TRIES = 3  # of a track whose actor died
LOOK_SECONDS = 0.5  # between two looks at how far the tracks are
FILL_SECONDS = 10.0  # between two looks at what the cluster has room for
REACH_SECONDS = 10.0  # for the cluster to answer
END_SECONDS = 10.0  # for actors to die when the run is stopped
_STORE_BYTES = 100 << 20  # of shared memory, which Ray wants, and which Works hardly use
_NICENESS = "RAY_worker_niceness"  # as Ray spells it
_GPU_CORES = 1  # for the actor of a GPU: it decodes and writes there


class _Signals:
    """Keeps signals back while Ray works, whose compiled code does not bear what handlers raise.

    `heed` lets the handler have one that has come, between two calls of Ray; so does the end.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}  # in whose place signals are noted
        self._held = True  # until they are given back
        self._came: int | None = None

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP])):
                if callable(signal.getsignal(number)):
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        self.heed()

    def _give_back(self) -> None:
        if self._held:
            self._held = False
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._came = self._came or number

    def heed(self) -> None:
        """Call the handler of a signal that has come. What it then sets for the next one holds."""
        if self._came is not None:
            number, self._came = self._came, None
            self._give_back()
            self._handlers[number](number, None)


@dataclass(eq=False)
class _Seat:
    """An actor and what it is at."""

    actor: Any
    busy: Any = None  # the reference to what it was told to do; None where it waits for a Work
    ready: bool = False  # whether it has the model
    given: tuple[int, Work] | None = None


class Cluster:
    """Workers on a Ray cluster. It is connected with, or started, when this is made."""

    def __init__(self, model: Model, listener: Listener):
        request = model.batch.request
        assert request.ray is not None
        _check(request.ray, request.device)
        require("ray")
        self._listener = listener
        self._batch = replace(model.batch, everything=(), sources=(), failures=())
        self._seats: list[_Seat] = []
        self._queue: deque[tuple[int, Work]] = deque()
        self._tries: Counter[int] = Counter()  # that ended with their actor, by the number of the Work
        self._looks: dict[Any, _Seat] = {}  # references to how far the actors are
        self._told: set[str] = set()  # notices of actors, each of which is told once
        self._deaths = 0  # of actors in a row
        self._unfit = 0  # actors on nodes where the model can't be had
        self._tracks = 1  # that there are in all: no more actors than that
        self._looked = self._filled = 0.0
        self._ray: Any = _connect(request.ray)
        try:
            self._on_gpu, self._threads = self._cut()
        except BaseException:
            self.close()
            raise

    def _cut(self) -> tuple[bool, int]:
        """Whether the actors have a GPU each, and their threads. DeviceError where there is room for none."""
        request, nodes = self._batch.request, _nodes()
        on_gpu = request.device == "cuda" or (
            request.device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes)
        )
        cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        threads = request.threads or (_GPU_CORES if on_gpu else min([THREADS, *cores]))
        if _room(nodes, on_gpu, threads) == 0:
            wanted = f"{'a GPU and ' if on_gpu else ''}{threads} {'core' if threads == 1 else 'cores'}"
            raise DeviceError(
                f"No node of the Ray cluster has {wanted} for a worker.",
                remedy=f"See `ray status`; {parameter('threads')} says how many cores a worker takes.",
                code="cluster",
            )
        return on_gpu, threads

    # --- what a batch asks of its workers ---

    def begin(self, half: bool, folder: Path) -> Precision:
        self._folder, self._stems = folder.absolute(), None
        self._shared = self._ray.put(self._batch)
        kind, why = (
            ("cuda", "the cluster has GPUs") if self._on_gpu else ("cpu", "no node of the cluster has a GPU")
        )
        try:
            with _Signals() as signals:
                found = self._hire().actor.device.remote(kind, half)
                waited = time.monotonic()
                while not self._ray.wait([found], timeout=LOOK_SECONDS)[0]:
                    signals.heed()
                    if time.monotonic() > waited + FILL_SECONDS:
                        self._notice("No node has started a worker yet; the cluster may be busy.")
                self.device, self._precision = self._ray.get(found)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError as error:
            raise DeviceError(
                f"A worker on the Ray cluster died as it began: {first_line(error)}.",
                remedy="See `ray status` and the logs of its node.",
                code="cluster",
            ) from error
        if self._batch.request.device == "auto":
            self.device = replace(self.device, reason=why)
        return self._precision

    def load(self, stems: Stems, tracks: int) -> None:
        self._stems, self._tracks = stems, tracks
        for seat in self._seats:
            self._prepare(seat)
        self._fill()
        count = len(self._seats)
        nodes = len({node["id"] for node in _nodes()})
        workers = f"{count} {'worker' if count == 1 else 'workers'}"
        each = "a GPU" if self._on_gpu else f"{self._threads} {'thread' if self._threads == 1 else 'threads'}"
        self._notice(f"Ray: {workers} with {each} each, on {nodes} {'node' if nodes == 1 else 'nodes'}.")
        with self._listener.downloading() as progress, _Signals() as signals:
            while not any(seat.ready for seat in self._seats):
                for ref in self._ended():
                    self._settle(ref)
                self._look(progress)
                signals.heed()

    @property
    def has_room(self) -> bool:
        given = len(self._queue) + sum(seat.given is not None for seat in self._seats)
        return given < max(1, len(self._seats))

    def give(self, number: int, work: Work) -> None:
        file = work.track.file
        assert file is not None
        track = work.track.read_from(file.absolute())
        parts = {stem: path.absolute() for stem, path in work.parts.items()}
        self._queue.append((number, replace(work, track=track, parts=parts, folder=work.folder.absolute())))

    def take(self) -> tuple[int, Made | Exception]:
        with _Signals() as signals:
            while True:
                self._hand_out()
                for ref in self._ended():
                    ended = self._settle(ref)
                    if ended is not None:
                        self._hand_out()
                        return ended
                self._look()
                signals.heed()

    def abandon(self) -> None:
        self._queue.clear()
        busy = [seat for seat in self._seats if seat.given is not None]
        for seat in busy:
            self._ray.kill(seat.actor)
            self._seats.remove(seat)
        if busy:
            self._ray.wait([seat.busy for seat in busy], num_returns=len(busy), timeout=END_SECONDS)

    def close(self) -> None:
        self._ray.shutdown()

    # --- actors ---

    def _hire(self) -> _Seat:
        """A new actor, which begins where and when there is room for it."""
        remote: Any = self._ray.remote(concurrency_groups={"look": 1})(_Remote)
        actor = remote.options(
            num_cpus=self._threads,
            num_gpus=1 if self._on_gpu else 0,
            max_restarts=0,  # another one is hired: nobody knows how far this one was
            max_task_retries=0,
        ).remote(self._shared, self._folder, self._threads, os.getcwd(), spelling(), __version__)
        seat = _Seat(actor)
        self._seats.append(seat)
        return seat

    def _prepare(self, seat: _Seat) -> None:
        """Let it have the model."""
        kind = "cuda" if self._on_gpu else "cpu"
        seat.busy = seat.actor.load.remote(kind, self._precision.name, self._stems)

    def _fill(self) -> None:
        """Hire as many as the nodes have room for."""
        self._filled = time.monotonic()
        room = _room(_nodes(), self._on_gpu, self._threads) - self._unfit
        while len(self._seats) < min(room, self._tracks):
            self._prepare(self._hire())
        if not self._seats:
            self._notice("The Ray cluster has no node left for a worker; the run goes on when it has one.")

    def _hand_out(self) -> None:
        """Give what is queued to actors that wait."""
        for seat in self._seats:
            if not self._queue:
                return
            if seat.ready and seat.busy is None:
                seat.given = self._queue.popleft()
                seat.busy = seat.actor.make.remote(*seat.given)

    def _ended(self) -> list[Any]:
        """The reference to something that an actor was told to do, and has done; none after LOOK_SECONDS."""
        busy = [seat.busy for seat in self._seats if seat.busy is not None]
        if not busy:
            time.sleep(LOOK_SECONDS)
            return []
        return self._ray.wait(busy, timeout=LOOK_SECONDS)[0]

    def _settle(self, ref: Any) -> tuple[int, Made | Exception] | None:
        """What an actor was told to do has ended: what became of its Work, if that is what it was."""
        seat = next(seat for seat in self._seats if seat.busy == ref)
        given, seat.busy, seat.given = seat.given, None, None
        try:
            answer, notices = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if given is not None:
                return given[0], _cause(error)
            self._dismiss(seat, _cause(error))
            return None
        except self._ray.exceptions.RayError as error:
            return self._lost(seat, given, error)
        self._deaths = 0
        for text in notices:
            self._notice(text)
        if given is not None:
            return given[0], answer
        if answer is not None and not any(other.ready for other in self._seats):
            self._listener.loaded(*answer)
        seat.ready = True
        return None

    def _dismiss(self, seat: _Seat, error: Exception) -> None:
        """This node can't have the model. That is the whole run's where no other has it."""
        self._seats.remove(seat)
        self._unfit += 1
        if not self._seats:
            raise error
        self._notice(f"A worker can't be used: {error}")

    def _lost(
        self, seat: _Seat, given: tuple[int, Work] | None, error: Exception
    ) -> tuple[int, SepcliError] | None:
        """An actor died. Its Work is begun again by another, unless that has been tried often enough."""
        with suppress(self._ray.exceptions.RayError):  # it may only be out of reach
            self._ray.kill(seat.actor)
        self._seats.remove(seat)
        self._deaths += 1
        ended = None
        if given is not None:
            number, work = given
            name = work.track.source.name
            self._tries[number] += 1
            if self._tries[number] < TRIES:
                self._listener.notice(f"{name}: its worker died ({_reason(error)}); another one begins again.")
                self._queue.appendleft((number, _again(work, self._tries[number])))
            else:
                ended = (
                    number,
                    DeviceError(
                        f"Its worker died {TRIES} times ({_reason(error)}).",
                        remedy=f"Memory may have run out: use a smaller {parameter('batch_size')} or "
                        f"{parameter('segment')}, or more {parameter('threads')}, so that fewer workers share "
                        "a node.",
                        code="worker_died",
                    ),
                )
        elif self._deaths >= TRIES * max(TRIES, len(self._seats)):
            raise DeviceError(
                f"The workers on the Ray cluster die while they load the model ({_reason(error)}).",
                remedy=f"Memory may have run out: more {parameter('threads')} make fewer workers.",
                code="worker_died",
            )
        return ended

    # --- what is told ---

    def _look(self, download: Callable[[int, int | None], None] | None = None) -> None:
        """Tell how far the tracks are; fill free room now and then.

        Nobody waits for an answer: what has come since the last look is told.
        """
        now = time.monotonic()
        if now >= self._filled + FILL_SECONDS:
            self._fill()
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        looks = list(self._looks)
        for ref in self._ray.wait(looks, num_returns=len(looks), timeout=0)[0] if looks else ():
            seat = self._looks[ref]
            try:
                at = self._ray.get(ref)
            except self._ray.exceptions.RayError:
                continue  # `take` hears of it
            if at is None:
                continue
            if seat.given is None:
                if download is not None and seat is self._seats[0]:
                    download(*at)
            elif at[0] == seat.given[0]:
                self._listener.progress(seat.given[1].track, *at[1:])
        asked = [seat for seat in self._seats if seat.given is not None or not seat.ready]
        self._looks = {seat.actor.look.options(concurrency_group="look").remote(): seat for seat in asked}

    def _notice(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._listener.notice(text)


class _Remote:
    """In an actor: one Worker. What it is told to do, it does in one thread; `look` has another."""

    def __init__(
        self, batch: Batch, folder: Path, threads: int, cwd: str, rule: Spelling, version: str
    ) -> None:
        self._batch, self._folder, self._threads, self._version = batch, folder, threads, version
        self._heard = _Heard()
        self._worker: Worker | None = None
        self._at: tuple[Any, ...] | None = None
        spell(rule)
        with suppress(OSError):  # paths that were given as relative ones
            os.chdir(cwd)

    def device(self, kind: str, half: bool) -> tuple[Device, Precision]:
        """The device, and what the batch is computed in."""
        from sepcli.engine.device import choose_device, choose_precision

        if self._version != __version__:
            raise DeviceError(
                f"The node {platform.node()} has sepcli {__version__}, and this is {self._version}.",
                remedy="Install the same version on all nodes.",
                code="cluster",
            )
        if not self._folder.is_dir():
            raise DeviceError(
                f"The node {platform.node()} does not see the output folder ('{self._folder.parent}').",
                remedy=f"Choose a folder that all nodes share with {parameter('out')}.",
                code="cluster",
            )
        device = choose_device(kind)
        return device, choose_precision(self._batch.request.precision, device, half)

    def load(
        self, kind: str, precision: str, stems: Stems
    ) -> tuple[tuple[str, tuple[str, ...]] | None, list[str]]:
        """Get the model ready: (origin, hashes) of its weights, and what the user should hear."""
        from sepcli.engine.device import choose_precision, tune_process

        device, _ = self.device(kind, half=False)
        tune_process(self._threads)
        self._worker = Worker(
            Model(self._batch, self._heard),
            device,
            choose_precision(precision, device, half=False),
            self._folder,
            self._heard,
        )
        if stems.targets:
            self._worker.load(stems)
        return self._heard.weights, self._heard.take()

    def make(self, number: int, work: Work) -> tuple[Made, list[str]]:
        """Carry the Work out."""
        assert self._worker is not None and work.track.file is not None
        if not work.track.file.exists():
            raise InputError(
                f"The node {platform.node()} does not see '{work.track.file}'.",
                remedy="The inputs of a run on a cluster have to be where all nodes see them.",
                code="missing",
            )

        def progress(done: float, total: float | None) -> None:
            self._at = number, done, total

        try:
            return self._worker.make(work, progress), self._heard.take()
        finally:
            self._at = None

    def look(self) -> tuple[Any, ...] | None:
        """How far it is: (number, audio seconds, of so many) of a Work, or bytes and all of a download."""
        return self._at or self._heard.download


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


# --- the cluster ---


def _check(address: str, device: str) -> None:
    """UsageError for what can't be a cluster, or a device of its nodes."""
    if address not in (LOCAL, "auto") and not re.fullmatch(r"[^/\s]+:\d+", address):
        raise UsageError(
            f"{parameter('ray', address)}: this is no Ray cluster; it is local, auto or HOST:PORT.",
            remedy="Give the address that `ray start --head` printed, on a machine that is one of its nodes.",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"{parameter('device', device)} has no place on a cluster, where Ray gives each worker its GPU.",
            remedy=f"The choices are auto, cpu and cuda with {parameter('ray')}.",
        )


def _connect(address: str) -> Any:
    """Connect with the cluster, or start one: the module ray. DeviceError where that fails.

    Ray replaces handlers of signals, which stay ours: a run ends as any other.
    """
    import ray
    import ray.exceptions

    # It prints what it hears of dying nodes on standard output, among the objects of --json. We say it too.
    with suppress(ImportError, AttributeError):
        import ray._private.worker as printing

        printing.print_to_stdstream = lambda *_, **__: None

    own: dict[str, Any] = {}
    if ":" in address:
        _reach(address)  # Ray would try for minutes
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every run
        os.environ.setdefault(_NICENESS, "0")  # 15 otherwise: far slower on a busy machine than without Ray
        own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:
        ray.shutdown()
        raise _unreachable(address, error) from error
    finally:
        if in_main:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return ray


def _reach(address: str) -> None:
    """DeviceError where nobody answers there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> DeviceError:
    which = {LOCAL: "Ray can't be started here", "auto": "There is no Ray cluster on this machine"}
    return DeviceError(
        f"{which.get(address, f'The Ray cluster {address} can not be reached')}: {first_line(error)}.",
        remedy="See `ray status` on this machine, which has to be a node of the cluster: `ray start --head` "
        "begins one, `ray start --address HOST:PORT` joins it. If it asks for a token: RAY_AUTH_MODE=token.",
        code="cluster",
    )


def _nodes() -> list[dict[str, Any]]:
    """The resources of each node that is alive, and its "id"."""
    import ray

    return [{**node["Resources"], "id": node["NodeID"]} for node in ray.nodes() if node["Alive"]]


def _room(nodes: list[dict[str, Any]], on_gpu: bool, threads: int) -> int:
    """How many actors the nodes can have, if nothing else runs there."""
    room = [int(node.get("CPU", 0)) // threads for node in nodes]
    if not on_gpu:
        return sum(room)
    return sum(min(int(node.get("GPU", 0)), cores) for node, cores in zip(nodes, room, strict=True))


def _again(work: Work, tries: int) -> Work:
    """The same in a folder of its own."""
    folder = work.folder / f"again{tries}"
    with suppress(OSError):  # then the next worker says why
        folder.mkdir()
    return replace(work, folder=folder)


def _cause(error: Any) -> Exception:
    """What was raised in an actor, with the traceback there."""
    cause = error.cause
    if not isinstance(cause, SepcliError):
        cause.add_note(error.traceback_str)
    return cause


def _reason(error: Exception) -> str:
    """Why an actor died, in a clause."""
    return "its node died" if "node has died" in str(error) else first_line(error)
