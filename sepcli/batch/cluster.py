"""Workers on the nodes of a Ray cluster: the same Works, carried out there; everything else stays here.

Knows Ray, and nothing of manifests, names or what is shown. An actor (actor.py) holds one Worker. One process,
this one, decides, gives final names and writes the manifest, so a run on a cluster is a run like any other.

    here      Work --> queue --+--> actor on a node: Worker.make --> Made
                               +--> actor on another node
                               +--> ...         files in the work folder, which all nodes see, or at an address

There are as many actors as the nodes have room for: one a GPU, or one for so many cores, and no more than
memory allows. What an actor takes of it is seen when one has separated something; until then each node has one.
An actor that died with its node is replaced where there is room, and its Work is given to another, in a folder
of its own: who is only cut off may still be writing. Nodes that join get actors too.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli import __version__
from sepcli.batch.actor import Actor
from sepcli.batch.model import Model
from sepcli.batch.names import Stems
from sepcli.batch.nodes import Node, check, connect, nodes, room
from sepcli.batch.results import Listener
from sepcli.batch.worker import Made, Work
from sepcli.errors import DeviceError, OutputError, SepcliError, first_line, parameter, require, spelling
from sepcli.system import HANGUP

if TYPE_CHECKING:
    from sepcli.engine.device import Precision

THREADS = 4  # of an actor on a CPU, where nothing else is asked for and the nodes have so many cores
TRIES = 3  # of a track whose actor died
LOOK_SECONDS = 0.5  # between two looks at how far the tracks are
FILL_SECONDS = 10.0  # between two looks at what the cluster has room for
END_SECONDS = 10.0  # for actors to die when the run is stopped
SPARE = 1.2  # times the memory that an actor was seen to take
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
    node: str | None  # its identity in the cluster; None: wherever there is room first
    busy: Any = None  # the reference to what it was told to do; None where it waits for a Work
    ready: bool = False  # whether it has the model
    given: tuple[int, Work] | None = None


class Cluster:
    """Workers on a Ray cluster. It is connected with, or started, when this is made."""

    fetch = True

    def __init__(self, model: Model, listener: Listener):
        request = model.batch.request
        assert request.ray is not None
        check(request.ray, request.device)
        require("ray")
        self._listener = listener
        self._batch = replace(model.batch, everything=(), sources=(), failures=())
        self._seats: list[_Seat] = []
        self._queue: deque[tuple[int, Work]] = deque()
        self._tries: Counter[int] = Counter()  # that ended with their actor, by the number of the Work
        self._looks: dict[Any, _Seat] = {}  # references to how far the actors are
        self._told: set[str] = set()  # notices of actors, each of which is told once
        self._deaths = 0  # of actors in a row
        self._unfit: set[str | None] = set()  # nodes where the model can't be had
        self._memory: int | None = None  # bytes for an actor; 0: nothing tells; None: none has been at work yet
        self._tracks = 1  # that there are in all: no more actors than that
        self._away = request.remote is not None  # whether actors fetch files, or put them elsewhere
        self._hoped = 0  # how many actors there will be, if memory allows it
        self._looked = self._filled = 0.0
        self._ray: Any = connect(request.ray)
        try:
            self._on_gpu, self._threads = self._cut()
        except BaseException:
            self.close()
            raise

    def _cut(self) -> tuple[bool, int]:
        """Whether the actors have a GPU each, and their threads. DeviceError where there is room for none."""
        request, found = self._batch.request, nodes()
        on_gpu = request.device == "cuda" or (request.device == "auto" and any(n.gpus >= 1 for n in found))
        cores = [int(node.cores) for node in found if node.cores >= 1]
        threads = request.threads or (_GPU_CORES if on_gpu else min([THREADS, *cores]))
        if room(found, on_gpu, threads) == 0:
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
                seat = self._hire()
                found = seat.actor.where.remote(kind, half)
                waited = time.monotonic()
                while not self._ray.wait([found], timeout=LOOK_SECONDS)[0]:
                    signals.heed()
                    if time.monotonic() > waited + FILL_SECONDS:
                        self._notice("No node has started a worker yet; the cluster may be busy.")
                seat.node, self.device, self._precision = self._ray.get(found)
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
        self._hoped = min(tracks, room(nodes(), self._on_gpu, self._threads))
        for seat in self._seats:
            self._prepare(seat)
        self._fill()
        self._tell_workers()
        with self._listener.downloading() as progress, _Signals() as signals:
            while not any(seat.ready for seat in self._seats):
                for ref in self._ended():
                    self._settle(ref)
                self._look(progress)
                signals.heed()

    @property
    def has_room(self) -> bool:
        given = len(self._queue) + sum(seat.given is not None for seat in self._seats)
        hoped = self._hoped if self._memory is None else 0  # they begin before `take` has an answer
        return given < max(1, len(self._seats), hoped)

    def give(self, number: int, work: Work) -> None:
        track = work.track
        if track.file is not None:
            track = track.read_from(track.file.absolute())
        self._away |= track.source.remote is not None
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
        try:
            if self._away:
                self._clear()
        finally:
            self._ray.shutdown()

    def _clear(self) -> None:
        """Leave nothing unfinished on nodes, nor at an address. What can't be had now, a later run removes."""
        with _Signals():
            # One that is loading the model has a folder on its node, too, and ends after that.
            ends = [seat.actor.end.remote() for seat in self._seats]
            if ends:
                self._ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)
        if self._batch.request.remote is not None:
            with suppress(OutputError):
                self._batch.request.remote.clear_aside()

    # --- actors ---

    def _hire(self, node: Node | None = None) -> _Seat:
        """A new actor, which begins when there is room for it on the node, or on any."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place: dict[str, Any] = {}
        if node is not None:
            place["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.id, soft=False)
            if self._memory and node.memory:  # also for others who use the cluster
                place["memory"] = min(self._memory, node.memory)
        remote: Any = self._ray.remote(concurrency_groups={"look": 1})(Actor)
        actor = remote.options(
            num_cpus=self._threads,
            num_gpus=1 if self._on_gpu else 0,
            max_restarts=0,  # another one is hired: nobody knows how far this one was
            max_task_retries=0,
            **place,
        ).remote(self._shared, self._folder, self._threads, os.getcwd(), spelling(), __version__)
        seat = _Seat(actor, None if node is None else node.id)
        self._seats.append(seat)
        return seat

    def _prepare(self, seat: _Seat) -> None:
        """Let it have the model."""
        kind = "cuda" if self._on_gpu else "cpu"
        seat.busy = seat.actor.load.remote(kind, self._precision.name, self._stems)

    def _fill(self) -> None:
        """Hire as many as the nodes have room for, in turn on each."""
        self._filled = time.monotonic()
        there = Counter(seat.node for seat in self._seats)
        most = {node: self._room(node) for node in nodes() if node.id not in self._unfit}
        while len(self._seats) < self._tracks:
            free = [node for node in most if there[node.id] < most[node]]
            if not free:
                break
            node = min(free, key=lambda each: there[each.id])
            there[node.id] += 1
            self._prepare(self._hire(node))
        if not self._seats:
            self._notice("The Ray cluster has no node left for a worker; the run goes on when it has one.")

    def _room(self, node: Node) -> int:
        """How many it may have now."""
        most = node.room(self._on_gpu, self._threads, self._memory or 0)
        return min(most, 1) if self._memory is None else most

    def _measure(self, memory: int | None) -> None:
        """An actor has separated something, and takes so much memory."""
        if memory is None or (self._memory is not None and memory * SPARE <= self._memory):
            return
        is_first, self._memory = self._memory is None, int(memory * SPARE)
        if is_first:
            self._fill()
            self._tell_workers()

    def _tell_workers(self) -> None:
        """How many there are, and where memory, not cores, is why there are not more."""
        found, count = nodes(), len(self._seats)
        workers = f"{count} {'worker' if count == 1 else 'workers'}"
        each = "a GPU" if self._on_gpu else f"{self._threads} {'thread' if self._threads == 1 else 'threads'}"
        text = f"Ray: {workers} with {each} each, on {len(found)} {'node' if len(found) == 1 else 'nodes'}"
        most = room(found, self._on_gpu, self._threads)
        if self._memory and room(found, self._on_gpu, self._threads, self._memory) < min(most, self._tracks):
            text += f"; memory is for no more, of which each takes {self._memory / 1e9:.1f} GB"
        self._notice(f"{text}.")

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
            told = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if given is not None:
                return given[0], _cause(error)
            self._dismiss(seat, _cause(error))
            return None
        except self._ray.exceptions.RayError as error:
            return self._lost(seat, given, error)
        self._deaths = 0
        self._measure(told.memory)
        for text in told.notices:
            self._notice(text)
        if given is not None:
            return given[0], told.answer
        if told.answer is not None and not any(other.ready for other in self._seats):
            self._listener.loaded(*told.answer)
        seat.ready = True
        return None

    def _dismiss(self, seat: _Seat, error: Exception) -> None:
        """This node can't have the model. That is the whole run's where no other has it."""
        self._seats.remove(seat)
        self._unfit.add(seat.node)
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
                told = self._ray.get(ref)
            except self._ray.exceptions.RayError:
                continue  # `take` hears of it
            self._measure(told.memory)
            at = told.answer
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
