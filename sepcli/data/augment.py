"""Augmentations for training: each is an object that is called with a batch of stems before they are mixed.

Knows tensors and random numbers; nothing of files. Row b of a batch is varied by `rngs[b]` alone (Remix varies
a group by the generator of its first row), so the result does not depend on how a batch is divided among
processes.

Some augmentations need more samples than they return: `extra` says how many, and `Batches` reads them.

    read  |==============================|      Shift: every source is cut where its own shift says
             drums |====================|
       vocals |====================|

Axes: B rows, S sources, C channels, T samples. The defaults come from the recipe of HT Demucs (S. Rouard,
F. Massa, A. Defossez, "Hybrid Transformers for Music Source Separation", section 4 and its code); Silence
and Equalize are not part of it. `HT_DEMUCS` is all of it in its order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from sepcli.data.stretch import stretch
from sepcli.errors import UsageError, did_you_mean
from sepcli.system.tables import TableError, read_table

Rngs = Sequence[np.random.Generator]  # one for each row


@dataclass(frozen=True)
class Augmentation:
    """The base of all augmentations. UsageError where an option has a value that can't be."""

    sources: tuple[str, ...] = field(default=(), kw_only=True)  # only these are varied; () = all

    group = 1  # how many rows it mixes with each other: a batch may be divided only between groups

    def extra(self, samples: int, samplerate: int) -> int:
        """How many samples it needs in addition to `samples`, to return at least `samples`. samplerate: Hz."""
        return 0

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        """Vary stems [B, S, C, T] -> [B, S, C, T'], with T' + extra(T') <= T. `stems` is overwritten.

        sources: the names of the S sources. samplerate: Hz. It works in place, because a batch takes 100 MB:
        new memory for a second one would cost more time than most augmentations themselves.
        """
        raise NotImplementedError

    def chosen(self, sources: Sequence[str]) -> list[int]:
        """The indices of the sources that are varied. UsageError for a name that is not among `sources`."""
        for name in self.sources:
            if name not in sources:
                raise UsageError(
                    f"{type(self).__name__} is for {name!r}, but the sources are {', '.join(sources)}.",
                    remedy="Correct `sources` of the augmentation.",
                )
        return [index for index, name in enumerate(sources) if not self.sources or name in self.sources]

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise UsageError(f"{type(self).__name__}: {what}.", remedy="Correct the augmentation's options.")

    def _factors(self, stems: Tensor, rngs: Rngs, sources: Sequence[str], draw: Any) -> Tensor:
        """[B, S, 1, 1]: a number drawn by draw(rng) for every chosen source of every row, 1 for the others."""
        factors = torch.ones(stems.shape[0], stems.shape[1], 1, 1)
        for row, rng in enumerate(rngs):
            for source in self.chosen(sources):
                factors[row, source] = draw(rng)
        return factors


@dataclass(frozen=True)
class Gain(Augmentation):
    """Every source is multiplied by a factor of its own between `low` and `high`: uniform, or uniform in dB."""

    low: float = 0.25
    high: float = 1.25
    decibels: bool = False  # uniform in dB: a gain up is as likely as the same gain down

    def __post_init__(self) -> None:
        self._check(0 <= self.low <= self.high, "low and high must be 0 <= low <= high")
        self._check(self.low > 0 or not self.decibels, "low must be above 0 where decibels are uniform")

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        def draw(rng: np.random.Generator) -> float:
            if self.decibels:
                return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return rng.uniform(self.low, self.high)

        return stems.mul_(self._factors(stems, rngs, sources, draw))


@dataclass(frozen=True)
class Polarity(Augmentation):
    """Every source is negated with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        self._check(0 <= self.p <= 1, "p must be between 0 and 1")

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        signs = self._factors(stems, rngs, sources, lambda rng: -1.0 if rng.random() < self.p else 1.0)
        return stems.mul_(signs)


@dataclass(frozen=True)
class ChannelSwap(Augmentation):
    """Left and right of every source are exchanged with probability `p`. Mono stays as it is."""

    p: float = 0.5

    def __post_init__(self) -> None:
        self._check(0 <= self.p <= 1, "p must be between 0 and 1")

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        for row, rng in enumerate(rngs):
            for source in self.chosen(sources):
                if rng.random() < self.p:
                    stems[row, source] = stems[row, source].flip(0)
        return stems


@dataclass(frozen=True)
class Silence(Augmentation):
    """Every source is silenced with probability `p`, but never all sources of a row."""

    p: float = 0.1

    def __post_init__(self) -> None:
        self._check(0 <= self.p <= 1, "p must be between 0 and 1")

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        chosen = self.chosen(sources)
        for row, rng in enumerate(rngs):
            silent = rng.random(len(chosen)) < self.p
            survivor = rng.integers(len(chosen))
            if silent.all() and len(chosen) == len(sources):
                silent[survivor] = False
            for source, gone in zip(chosen, silent, strict=True):
                if gone:
                    stems[row, source] = 0
        return stems


@dataclass(frozen=True)
class Shift(Augmentation):
    """Every source begins up to `seconds` later by a shift of its own; with `same`, by one for the row."""

    seconds: float = 1.0
    same: bool = False

    def __post_init__(self) -> None:
        self._check(self.seconds >= 0, "seconds must not be negative")

    def extra(self, samples: int, samplerate: int) -> int:
        """See Augmentation."""
        return round(self.seconds * samplerate)

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        most = self.extra(0, samplerate)
        samples = stems.shape[-1] - most
        assert samples > 0, (stems.shape, most)
        chosen = set(self.chosen(sources))
        for row, rng in enumerate(rngs):
            drawn = rng.integers(0, most + 1, size=1 if self.same else len(sources))
            offsets = np.broadcast_to(drawn, len(sources))
            for source, offset in enumerate(offsets):
                if source in chosen and offset:
                    stems[row, source, :, :samples] = stems[row, source, :, offset : offset + samples].clone()
        return stems[..., :samples]


@dataclass(frozen=True)
class Remix(Augmentation):
    """Within groups of `group` rows, the rows exchange their sources at random: songs that never were.

    The last group of a batch may be smaller. Every stem of a group is still in the group, once.
    """

    group: int = 4

    def __post_init__(self) -> None:
        self._check(self.group >= 1, "group must be at least 1")

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        for first in range(0, len(stems), self.group):
            rows = np.arange(first, min(first + self.group, len(stems)))
            for source in self.chosen(sources):
                stems[rows, source] = stems[rngs[first].permutation(rows), source]
        return stems


@dataclass(frozen=True)
class Repitch(Augmentation):
    """With probability `p`, another pitch and tempo: one draw for all sources of a row, or one for each.

    method "stretch": whole semitones up to +-`semitones`, and independently of them a tempo from N(1,
    tempo_std) that differs from 1 by at most `max_tempo`; by overlap-add (data/stretch.py) and resampling.
    method "varispeed": like a record at another speed, pitch and tempo together, any pitch up to +-`semitones`;
    by resampling alone, which leaves no artefacts. In both, formants move with the pitch.
    """

    p: float = 0.2
    semitones: float = 2.0
    tempo_std: float = 0.05
    max_tempo: float = 0.12
    independent: bool = False  # a draw for every source
    method: str = "stretch"  # or "varispeed"

    def __post_init__(self) -> None:
        self._check(0 <= self.p <= 1, "p must be between 0 and 1")
        self._check(0 <= self.semitones <= 12, "semitones must be between 0 and 12")
        self._check(0 <= self.max_tempo < 0.5, "max_tempo must be between 0 and 0.5")
        self._check(self.tempo_std >= 0, "tempo_std must not be negative")
        self._check(self.method in ("stretch", "varispeed"), 'method must be "stretch" or "varispeed"')

    def _kept(self) -> float:
        """The share of the length that is left by every draw; so much is always returned (HT Demucs: 0.88)."""
        return 1 - self.max_tempo if self.method == "stretch" else 2 ** (-self.semitones / 12)

    def extra(self, samples: int, samplerate: int) -> int:
        """See Augmentation."""
        return math.ceil(samples / self._kept()) - samples

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        samples = math.floor(stems.shape[-1] * self._kept() + 1e-6)
        out = stems[..., :samples]
        chosen = self.chosen(sources)
        for row, rng in enumerate(rngs):
            for part in [[source] for source in chosen] if self.independent else [chosen]:
                if rng.random() >= self.p:
                    continue
                if self.method == "varispeed":
                    speed = 2 ** (rng.uniform(-self.semitones, self.semitones) / 12)
                    needed = math.ceil(samples * speed) + 64  # with a little for the filter of the resampler
                    out[row, part] = _faster(stems[row, part, :, :needed], speed, samples)
                else:
                    most = math.floor(self.semitones)
                    pitch = 2 ** (rng.integers(-most, most + 1) / 12)
                    tempo = 1 + float(np.clip(rng.normal(0, self.tempo_std), -self.max_tempo, self.max_tempo))
                    for source in part:  # each by itself, so that it is cut where that suits it
                        stretched = stretch(stems[row, source].numpy(), tempo / pitch, samplerate)
                        out[row, source] = _faster(torch.from_numpy(stretched)[None], pitch, samples)[0]
        return out


def _faster(stems: Tensor, speed: float, samples: int) -> Tensor:
    """[S, C, T] -> [S, C, samples], played `speed` times as fast: pitch and tempo rise together."""
    if speed == 1:
        return torch.nn.functional.pad(stems[..., :samples], (0, max(0, samples - stems.shape[-1])))
    interleaved = np.ascontiguousarray(stems.flatten(0, 1).T.numpy())  # [T, S * C]
    resampled = soxr.resample(interleaved, speed, 1.0, quality="MQ")[:samples]
    out = torch.zeros(*stems.shape[:2], samples)  # rounding in `stretch` may leave the last few samples silent
    out[..., : len(resampled)] = torch.from_numpy(resampled.T.reshape(*stems.shape[:2], -1))
    return out


@dataclass(frozen=True)
class Equalize(Augmentation):
    """With probability `p`, every source gets a gentle equaliser of its own: a tilt and some peaks or dips.

    Its phase is zero, so nothing moves in time. It is the same for all channels. At 1 kHz the tilt is 0 dB.
    """

    p: float = 0.5
    tilt: float = 1.5  # dB an octave, at most, up or down
    peaks: int = 2
    peak: float = 6.0  # dB at most, up or down
    limit: float = 12.0  # dB: no frequency is changed by more

    def __post_init__(self) -> None:
        self._check(0 <= self.p <= 1, "p must be between 0 and 1")
        self._check(min(self.tilt, self.peaks, self.peak, self.limit) >= 0, "no option may be negative")

    def __call__(self, stems: Tensor, rngs: Rngs, *, sources: Sequence[str], samplerate: int) -> Tensor:
        samples = stems.shape[-1]
        step = 1 << max(0, samples.bit_length() - 5)
        length = -(-samples // step) * step  # its prime factors are at most 31: fast to transform
        hertz = np.maximum(np.fft.rfftfreq(length, 1 / samplerate), 1.0)
        grid = np.linspace(0, math.log2(samplerate / 2), 512)  # log2 Hz
        for row, rng in enumerate(rngs):
            for source in self.chosen(sources):
                if rng.random() >= self.p:
                    continue
                curve = np.interp(np.log2(hertz), grid, self._decibels(rng, grid))
                gain = torch.from_numpy(10 ** (curve / 20)).float()
                spec = torch.fft.rfft(stems[row, source], n=length)
                stems[row, source] = torch.fft.irfft(spec * gain, n=length)[:, :samples]
        return stems

    def _decibels(self, rng: np.random.Generator, grid: np.ndarray) -> np.ndarray:
        """The gain in dB at `grid` (log2 of Hz)."""
        curve = rng.uniform(-self.tilt, self.tilt) * (grid - math.log2(1000))
        for _ in range(self.peaks):
            centre, octaves = rng.uniform(math.log2(60), math.log2(12000)), rng.uniform(0.3, 1.5)
            curve = curve + rng.uniform(-self.peak, self.peak) * np.exp(-(((grid - centre) / octaves) ** 2) / 2)
        return np.clip(curve, -self.limit, self.limit)


HT_DEMUCS: tuple[Augmentation, ...] = (Repitch(), Shift(), ChannelSwap(), Polarity(), Gain(), Remix())

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower(): cls
    for cls in (Repitch, Shift, ChannelSwap, Polarity, Gain, Silence, Equalize, Remix)
}  # repitch, shift, channel_swap, ...


def from_config(name: str, fields: Mapping[str, Any]) -> Augmentation:
    """The augmentation of that name ("channel_swap", or as its class "ChannelSwap") with these options.

    UsageError for a name or an option that does not exist (it suggests similar ones), and for a value of
    another type.
    """
    cls = {**AUGMENTATIONS, **{cls.__name__: cls for cls in AUGMENTATIONS.values()}}.get(name)
    if cls is None:
        raise UsageError(
            f"There is no augmentation {name!r}; there are {', '.join(AUGMENTATIONS)}.",
            remedy=did_you_mean(name, AUGMENTATIONS) or "Correct its name.",
        )
    try:
        return read_table(cls, fields, key=f"augment.{name}")
    except TableError as error:
        raise UsageError(str(error), remedy=error.remedy or f"Correct {error.path}.") from None
