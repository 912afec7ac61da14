"""What happens to the stems' levels on the way to a file: nothing, unless they would clip or must add up.

Knows numpy blocks and the range of a sample format; no files, no models, no sample rates. Everything works
block by block, so a track of any length goes through twice in constant memory:

    pass 1   stems, mix -> combine(gain=1) -> PeakMeter          only for `--clip gain`
    pass 2   stems, mix -> combine(gain=g) -> files              g from `common_gain`, 1 if nothing clips

Two stems of one track never get two gains: their balance is the mix's balance. Submixes, such as the rest (the
mix minus the stems), and the residual of `--sum exact` are part of what is measured, since they are part of
what is written.

How an exact sum is made. One file, the *carrier*, is not taken from the model but is what the others leave:

    carrier = g x mix - sum of the others as written          the rest, else `other`, else the last stem

The rest is the submix that is the mix minus all written stems, each once. Other submixes have no part in the
sum: they are made of the stems as written, and of the mix.

Integers are subtracted after rounding, so the rounding errors of all files end up in the carrier and the
integers add up to round(g x mix x 2^(bits-1)) exactly: to the input's own integers where g is 1, the rate is
kept and the output has at least the input's depth (of 32-bit integers, the 24 digits that float32 holds). In
float32 only the carrier's own rounding is left over: summed in float64, the files equal g x mix to half a
unit in the last place of the carrier. Where the carrier is merely the last stem, every stem first takes an
equal share of the residual.

Axes: F files (the written stems in order, then the submixes), K stems, C channels, T frames.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sepcli.errors import ModelError, parameter
from sepcli.sound.submix import Submix

# The stem that takes the residual of `--sum exact` where no rest is written: by the field's convention it
# holds "everything else" already.
RESIDUAL_STEM = "other"


@dataclass(frozen=True)
class Scale:
    """The samples a file can hold, in units where 1.0 is the conventional full scale."""

    bits: int | None  # of an integer format; None: float, or a lossy encoder's input

    @classmethod
    def of(cls, depth: str) -> Scale:
        """depth: "16", "24", "32" for integers; "32f" and "lossy" for floats."""
        return cls(None if depth in ("32f", "lossy") else int(depth))

    @property
    def steps(self) -> int:
        """Quantisation steps from 0 to full scale: 2^(bits-1)."""
        assert self.bits is not None
        return 1 << (self.bits - 1)

    @property
    def lowest(self) -> float:
        """The smallest sample."""
        return -1.0

    @property
    def highest(self) -> float:
        """The largest sample: two's complement has one step less above zero than below."""
        return 1.0 if self.bits is None else 1.0 - 1.0 / self.steps

    @property
    def slack(self) -> float:
        """How far beyond the range a sample still lands on its last value: half a step, by rounding."""
        return 0.0 if self.bits is None else 0.5 / self.steps

    def clips(self, lowest: float, highest: float) -> bool:
        """Whether samples between these would be cut off by more than rounding."""
        if self.bits is None:
            return highest > self.highest or lowest < self.lowest
        # `>=` above, `<` below: rint takes ties to the even neighbour, which is out of range only above.
        return highest >= self.highest + self.slack or lowest < self.lowest - self.slack


class PeakMeter:
    """The extreme samples of every file, and how many of them lie outside a scale."""

    def __init__(self, files: int, scale: Scale):
        self.scale = scale
        self.highest = np.zeros(files)
        self.lowest = np.zeros(files)
        self.clipped = np.zeros(files, dtype=np.int64)  # samples

    def add(self, block: NDArray) -> None:
        """block [F, C, T], floats in full scale or integers in steps, before any clamping."""
        if block.shape[-1] == 0:
            return
        unit = 1.0 if block.dtype.kind == "f" else 1.0 / self.scale.steps
        flat = block.reshape(len(block), -1)
        highest, lowest = flat.max(axis=1) * unit, flat.min(axis=1) * unit
        if not (np.isfinite(highest).all() and np.isfinite(lowest).all()):
            raise ModelError(
                "The model gave samples that are not finite numbers.",
                remedy=f"Try {parameter('precision', 'float32')}; if it still happens, verify the weights: "
                "`sepcli models verify`.",
                code="not_finite_stems",
            )
        # Counting costs a second look at the block, so only files that do clip get one.
        for file, (low, high) in enumerate(zip(lowest, highest, strict=True)):
            if self.scale.clips(low, high):
                top = (self.scale.highest + self.scale.slack) / unit
                bottom = (self.scale.lowest - self.scale.slack) / unit
                above = flat[file] > top if self.scale.bits is None else flat[file] >= top
                self.clipped[file] += np.count_nonzero(above | (flat[file] < bottom))
        np.maximum(self.highest, highest, out=self.highest)
        np.minimum(self.lowest, lowest, out=self.lowest)


class Levels:
    """The files of one track, made from its stems and, where they need it, the mix."""

    def __init__(
        self,
        stems: Sequence[str],
        *,
        submixes: Sequence[Submix] = (),
        exact: bool = False,
        scale: Scale,
        hidden: Collection[str] = (),
    ):
        """stems: in file order. submixes: of these, one more file each. hidden: stems that are not written.

        exact: the written stems add up to the mix, together with the rest where it is among the submixes.
        """
        assert stems, "nothing to write"
        self.stems = tuple(stems)
        self.scale = scale
        self.exact = exact
        self.integers = exact and scale.bits is not None  # whether `combine` gives integers
        self.needs_mix = exact or any(submix.mix for submix in submixes)
        self.missed = 0  # samples at which clamping kept an exact integer sum from holding
        written = [k for k, stem in enumerate(stems) if stem not in hidden]
        self._shown = [*written, *range(len(stems), len(stems) + len(submixes))]
        self.files = (*(stems[k] for k in written), *(submix.name for submix in submixes))
        places = {stem: k for k, stem in enumerate(stems)}
        self._submixes = [
            (submix.mix, [(places[stem], gain) for stem, gain in submix.stems.items()]) for submix in submixes
        ]
        self.carrier: int | None = None  # its place among the files
        self.shared = False  # whether all stems carry a part
        self._summed = list(range(len(written)))  # the files that add up, by their places
        if exact:
            rest = Submix.without("", [stems[k] for k in written]).gains
            at = next((j for j, submix in enumerate(submixes) if submix.gains == rest), None)
            assert at is not None or not hidden, "what is hidden is missing in the sum"
            if at is not None:
                self.carrier = len(written) + at
                self._summed.append(self.carrier)
            else:
                self.shared = RESIDUAL_STEM not in stems
                self.carrier = len(stems) - 1 if self.shared else list(stems).index(RESIDUAL_STEM)

    def combine(
        self, stems: NDArray[np.float32], mix: NDArray[np.float32] | None, gain: float = 1.0
    ) -> NDArray:
        """stems [K, C, T] and mix [C, T] -> what the files hold at `gain`, [F, C, T].

        float32 in full scale, unclamped; or int64 in steps, unclamped, where `integers`.
        """
        count = len(self.stems)
        assert len(stems) == count and (mix is not None or not self.needs_mix)
        if not self.exact and not self._submixes:
            return stems if gain == 1.0 else (stems.astype(np.float64) * gain).astype(np.float32)
        assert mix is None or mix.shape == stems.shape[1:], (mix.shape, stems.shape)
        # float64 throughout: a float32 sum of several stems would lose more than the last stem's last bit.
        target = np.zeros(stems.shape[1:]) if mix is None else mix.astype(np.float64) * gain
        wanted = stems.astype(np.float64) * gain
        if self.shared:
            wanted += (target - wanted.sum(axis=0)) / count
        if self.integers:
            wanted, target = self._round(wanted), self._round(target)
        kind = np.int64 if self.integers else np.float32
        files = np.empty((count + len(self._submixes), *target.shape), dtype=kind)
        files[:count] = wanted
        # Take the others as they are written (rounded), not as they were wanted.
        if self.carrier is not None and self._shown[self.carrier] < count:
            others = [k for k in range(count) if k != self._shown[self.carrier]]
            files[self._shown[self.carrier]] = target - files[others].sum(
                axis=0, dtype=np.int64 if self.integers else np.float64
            )
        for j, (share, parts) in enumerate(self._submixes, count):
            total = share * target if share else np.zeros(target.shape)
            for k, factor in parts:
                total += factor * files[k].astype(np.float64)
            files[j] = np.rint(total) if self.integers else total
        return files if len(self._shown) == len(files) else files[self._shown]

    def clamp(self, files: NDArray) -> NDArray:
        """`combine`'s block held within the scale.

        In an exact integer sum, what a clamped stem loses goes to the carrier; only where that is full too do
        the integers no longer add up, and `missed` counts those samples.
        """
        if not self.integers:
            return np.clip(files, self.scale.lowest, self.scale.highest)
        held = np.clip(files, -self.scale.steps, self.scale.steps - 1)
        lost = (files - held)[self._summed].sum(axis=0) - (files[self.carrier] - held[self.carrier])
        carrier = files[self.carrier] + lost
        held[self.carrier] = np.clip(carrier, -self.scale.steps, self.scale.steps - 1)
        self.missed += int(np.count_nonzero(held[self.carrier] != carrier))
        return held

    def common_gain(self, meter: PeakMeter) -> float:
        """The largest gain at which no file clips; exactly 1 where none does at 1.

        meter: has seen every block of `combine(gain=1)`.
        """
        gain = 1.0
        peaks = list(zip(meter.lowest, meter.highest, strict=True))
        if not any(self.scale.clips(low, high) for low, high in peaks):
            return gain
        for file, (low, high) in enumerate(peaks):
            error = self._rounding(file) * self.scale.slack if self.integers else 0.0
            if not error and not self.scale.clips(low, high):
                continue
            if high > 0:
                gain = min(gain, (self.scale.highest - error) / (high + error))
            if low < 0:
                gain = min(gain, (self.scale.lowest + error) / (low - error))
        return gain

    def _rounding(self, file: int) -> float:
        """How many half steps of rounding add up in a file of integers that is made of others.

        They are once in the measured peak, and once more when all is rounded again at the new gain.
        """
        if file == self.carrier:  # all files that add up, but for this one, the target and its own
            return len(self._summed) + 1
        place = self._shown[file] - len(self.stems)
        if place < 0:
            return 0
        share, parts = self._submixes[place]
        carrier = None if self.carrier is None else self._shown[self.carrier]
        half_steps = [len(self._summed) + 1 if k == carrier else 1 for k, _ in parts]
        total = sum(abs(gain) * each for (_, gain), each in zip(parts, half_steps, strict=True))
        return total + abs(share) + 1

    def _round(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.rint(values * self.scale.steps).astype(np.int64)
