"""One step of an engine, usually its only one: an ensemble of one rate on its way over a track.

    blocks -> standardise -> buffer -> chunks -> batches -> model -> overlap-add -> mean over shifts and members
                                                                                              [-> mixed anew]

Sees only Separators and tensors. A *pass* is one way of one member over the track; with shifts a member makes
several, each cut at other places. All passes advance together, so only a few segments are in memory at any
time, however long the track is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sepcli.engine.chunking import BlockQueue, Chunk, ChunkPlan, OverlapAdd, StreamBuffer, plan_chunks
from sepcli.engine.compiled import Compiled
from sepcli.engine.device import free_bytes, is_out_of_memory, told_of_memory
from sepcli.engine.ensemble import Ensemble
from sepcli.engine.mixer import Mixed
from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator
from sepcli.engine.settings import Settings
from sepcli.engine.statistics import Measuring, Meter, Stats
from sepcli.errors import DeviceError, parameter

MAX_SHIFT_SECONDS = 0.5
MEMORY_SHARE = 0.7  # of the device's free memory that batches may fill
LARGEST_BATCH = 64

# (audio seconds done, audio seconds in all or None while unknown)
Progress = Callable[[float, float | None], None]


def more_memory() -> str:
    """What a user can do where a device's memory is too small, as a remedy."""
    return (
        f"Close other programs that use it, choose a shorter {parameter('segment')}, "
        f"or use {parameter('device', 'cpu')}."
    )


class Stage:
    """One step of an engine, usually its only one: an ensemble with a plan of chunks for each member.

    mixer: what makes the stems that come out of the ensemble's, if they don't come out as they are.
    """

    def __init__(self, model: Separator, settings: Settings, device: torch.device, dtype: torch.dtype):
        self.mixer = model if isinstance(model, Mixed) else None
        self.ensemble = Ensemble.of(model if self.mixer is None else self.mixer.ensemble)
        self.settings = settings
        self.device = device
        self.sources, self.offset_stem = model.sources, model.offset_stem
        self.samplerate, self.channels = self.ensemble.samplerate, self.ensemble.channels
        self.normalize = self.ensemble.normalize
        self.plans = [
            plan_chunks(member.segment, settings.overlap, member.samplerate, settings.segment)
            for member in self.ensemble.members
        ]
        self.batches: list[Batch] = []
        with told_of_memory(more_memory()):
            for member, plan in zip(self.ensemble.members, self.plans, strict=True):
                samples = plan.chunk(0, None).feed_length
                member.prepare(samples, device, dtype)
                compiled = Compiled(member, samples, device) if settings.compile else None
                self.batches.append(Batch(settings.batch_size, device, compiled))
            if settings.compile:
                self._try_compiled()

    @torch.inference_mode()
    def _try_compiled(self) -> None:
        """So that a machine that can't compile says so before the first track."""
        for batch in self.batches:
            batch.try_compiled(self.channels)

    def meter(self) -> Measuring:
        """What finds the statistics of a track for it."""
        return Meter()

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """As Engine.separate, by this step alone."""
        assert stats is not None or not self.normalize, "this model wants the track's statistics"
        return _Track(self, blocks, stats, progress).run()


class Batch:
    """How many windows go into one call on this device; halved when memory runs out."""

    def __init__(self, wanted: int | None, device: torch.device, compiled: Compiled | None = None):
        """wanted: windows; None: as many as the memory of a CUDA device takes, one elsewhere.

        compiled: what computes full batches of whole segments, in the model's place.
        """
        self.device, self._compiled = device, compiled
        self.size = wanted or 1
        self._search = wanted is None and device.type == "cuda"

    def run(self, model: Separator, windows: Tensor, noise: Noise) -> Tensor:
        """[N, C, T] windows on the CPU -> [N, S, C, T] on the device, in calls of at most `size`.

        noise: of all N, for models that sample.
        """
        outs, done = [], 0
        while done < len(windows):
            part = windows[done : done + self.size]
            try:
                outs.append(self._call(model, part, noise.part(done, done + self.size)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(len(part), error)
            else:
                done += len(part)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def try_compiled(self, channels: int) -> None:
        """A call that makes it ready; where the memory of a GPU decides the size, the first full batch does."""
        if self._compiled is not None and not self._search:
            self._compiled(torch.zeros(self.size, channels, self._compiled.samples, device=self.device))

    def _call(self, model: Separator, part: Tensor, noise: Noise) -> Tensor:
        if not self._search:
            windows, compiled = sent(part, self.device), self._compiled
            if compiled is not None and len(part) == self.size and part.shape[-1] == compiled.samples:
                return compiled(windows)
            return model(windows, noise=noise)
        # The first call, of one window, shows what a window costs; the rest of the memory gives the size.
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        out = model(sent(part, self.device), noise=noise)
        cost = max(torch.cuda.max_memory_allocated(self.device) - before, 1) / len(part)
        free = free_bytes(self.device)
        assert free is not None, "a CUDA device tells"
        self.size = max(1, min(LARGEST_BATCH, int(MEMORY_SHARE * free / cost)))
        self._search = False
        return out

    def _shrink(self, tried: int, error: Exception) -> None:
        self._search = False
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if tried == 1:
            raise DeviceError(
                f"The device {self.device} ran out of memory with one chunk at a time.",
                remedy=more_memory(),
                code="out_of_memory",
            ) from error
        self.size = max(1, tried // 2)


def sent(windows: Tensor, device: torch.device) -> Tensor:
    """Windows on the CPU -> on the device. From pinned memory a CUDA device fetches them by itself."""
    if device.type == "cuda":
        windows = windows.pin_memory()
    return windows.to(device, non_blocking=True)


@dataclass
class _Pass:
    """One pass of one member over the track, beginning at `start` <= 0."""

    member: int
    plan: ChunkPlan
    next: int  # where the next chunk begins
    adder: OverlapAdd
    lead: int = 0  # samples before the track's beginning that are still to be dropped
    final: BlockQueue = field(default_factory=BlockQueue)  # [S', G, C, T] blocks not yet handed on
    finished: bool = False

    def accept(self, out: Tensor, last: bool) -> None:
        """Add the stems of the next chunk, [S', G, C, T]; what becomes final waits in `final`."""
        block = self.adder.add(out, last=last)
        drop = min(self.lead, block.shape[-1])
        self.lead -= drop
        self.final.put(block[..., drop:])
        self.finished = last


class _Track:
    """The state of one track on its way through a stage."""

    def __init__(
        self,
        stage: Stage,
        blocks: Iterator[Tensor],
        stats: Stats | None,
        progress: Progress | None,
    ):
        self.stage = stage
        self.standard = stats if stage.normalize else None
        self.buffer = StreamBuffer(self._standardised(blocks))
        self.passes = self._make_passes()
        self.emitted = 0  # samples
        self.progress = progress
        self.seconds = stats.frames / stage.samplerate if stats else None

    def _standardised(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            if self.standard:
                block = (block - self.standard.mean[:, None, None]) / self.standard.scale[:, None, None]
            yield block

    def _make_passes(self) -> list[_Pass]:
        """One pass for each member, or one for each member and shift, at offsets drawn from the seed.

        A shifted pass begins up to half a second before the track: silence goes in front, and its result
        is dropped.
        """
        settings = self.stage.settings
        draw = random.Random(settings.seed)
        longest = int(MAX_SHIFT_SECONDS * self.stage.samplerate)
        passes = []
        for index, plan in enumerate(self.stage.plans):
            for _ in range(max(settings.shifts, 1)):
                lead = longest - draw.randint(0, longest) if settings.shifts else 0
                passes.append(_Pass(index, plan, -lead, OverlapAdd(plan.size, plan.stride), lead=lead))
        return passes

    @torch.inference_mode()  # as a decorator it leaves the caller's mode alone between two blocks
    def run(self) -> Iterator[Tensor]:
        """[S, G, C, T] blocks of stems, as they become final."""
        self.buffer.reach(1)
        if self.buffer.end == 0:
            return
        while True:
            waiting = [one for one in self.passes if not one.finished]
            if waiting:
                # The pass that is farthest behind, and others of its member, so that a batch fills up.
                self._advance(min(waiting, key=lambda one: one.next).member)
            yield from self._emit()
            if not waiting:
                return
            self._forget()
            self._report()

    def _advance(self, member: int) -> None:
        """Run one batch of chunks through a member and add the results to their passes."""
        batch = self.stage.batches[member]
        planned: list[tuple[_Pass, Chunk, bool]] = []
        upcoming = {id(one): one.next for one in self.passes if one.member == member and not one.finished}
        groups = 0
        while upcoming:
            one = min((p for p in self.passes if id(p) in upcoming), key=lambda p: upcoming[id(p)])
            chunk, last = self._plan(one.plan, upcoming[id(one)])
            if planned and chunk.feed_length != planned[0][1].feed_length:
                break
            planned.append((one, chunk, last))
            if last:
                del upcoming[id(one)]
            else:
                upcoming[id(one)] += one.plan.stride
            groups = groups or self.buffer.read(chunk.start, 1).shape[0]
            if len(planned) * groups >= batch.size:
                break
        windows = torch.cat([self.buffer.read(c.feed_start, c.feed_length) for _, c, _ in planned])
        noise = Noise(
            self.stage.settings.seed,
            starts=[c.feed_start for _, c, _ in planned for _ in range(groups)],
            groups=[*range(groups)] * len(planned),
        )
        model = self.stage.ensemble.members[member]
        if model.keeps_silence and not windows.any():
            outs = windows.new_zeros(len(windows), len(model.sources), *windows.shape[1:])
        else:
            outs = batch.run(model, windows, noise)  # [N*G, S', C, T]
        for i, (one, chunk, last) in enumerate(planned):
            out = outs[i * groups : (i + 1) * groups].transpose(0, 1)  # [S', G, C, T]
            one.accept(chunk.trim(out), last)
            one.next += one.plan.stride

    def _plan(self, plan: ChunkPlan, start: int) -> tuple[Chunk, bool]:
        """The chunk at `start`, with its window in the buffer, and whether it is the last of its pass."""
        full = plan.chunk(start, None)
        # One sample past the chunk and past the next one's start tells whether the track goes on.
        self.buffer.reach(max(full.feed_end, start + plan.size, start + plan.stride + 1))
        end = self.buffer.end
        if end is None:
            return full, False
        return plan.chunk(start, end), start + plan.stride >= end

    def _emit(self) -> Iterator[Tensor]:
        """The samples that are final in every pass: their mean over shifts, then over members, at the track's
        own level."""
        count = min(one.final.held for one in self.passes)
        if not count:
            return
        ensemble = self.stage.ensemble
        shifts = max(self.stage.settings.shifts, 1)
        sums: list[Tensor | None] = [None] * len(ensemble.members)
        for one in self.passes:
            block = one.final.take(count)
            so_far = sums[one.member]
            sums[one.member] = block if so_far is None else so_far + block
        scattered = []
        for index, total in enumerate(sums):
            assert total is not None, "every member makes a pass"
            mean = (total / shifts).transpose(0, 1)  # [G, S', C, T]
            scattered.append(ensemble.scatter(index, mean))
        stems = ensemble.gather(scattered).transpose(0, 1).cpu()  # [S, G, C, T]
        if self.stage.mixer is not None:
            stems = self.stage.mixer.mix(stems, self.buffer.read(self.emitted, count))
        self.emitted += count
        if self.standard:
            stems = stems * self.standard.scale[:, None, None]
            # The mean is a constant offset of the recording, and no stem's sound: their sum has it once.
            offset_stem, sources = self.stage.offset_stem, self.stage.sources
            if offset_stem in sources:
                stems[sources.index(offset_stem)] += self.standard.mean[:, None, None]
        yield stems

    def _forget(self) -> None:
        """Drop the audio that no later window needs."""
        reach = [
            one.next - one.plan.size - 2 * one.plan.segment.margin for one in self.passes if not one.finished
        ]
        if reach:
            self.buffer.forget(min(reach))

    def _report(self) -> None:
        if self.progress:
            ahead = [max(0, one.next) for one in self.passes]
            done = sum(ahead) / len(ahead) / self.stage.samplerate
            end = self.buffer.end / self.stage.samplerate if self.buffer.end is not None else self.seconds
            self.progress(min(done, end) if end else done, end)
