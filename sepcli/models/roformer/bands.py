"""Bins into bands and bands into masks: what is different in every band, as products of many matrices at once.

    [N, F * V] --norm, linear: one matrix a band--> [K, N, D]        D values of a band, whatever its width
    [K, N, D]  --MLP, GLU: one a band and stem----> [N, F * V]       V = 2 C values of a bin: (channel, re/im)

A band is a range of bins. Those that stand side by side and are equally wide make a run, which is one batched
product. Bands may overlap; a bin's mask is then the mean of those of its bands.

Axes: N frames of all items of a batch, F bins, K bands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.bands import BandLinear, runs
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.pieces import at_once


@dataclass(frozen=True)
class Layout:
    """The bands of a spectrogram: half-open ranges of bins, in rising order."""

    bands: tuple[tuple[int, int], ...]
    bins: int  # F

    def __post_init__(self) -> None:
        covered = {bin for low, high in self.bands for bin in range(low, high)}
        if covered != set(range(self.bins)):
            raise ValueError(f"the bands must cover all {self.bins} bins and no others")

    @property
    def widths(self) -> list[int]:
        """Bins of each band."""
        return [high - low for low, high in self.bands]

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """(first band, number of bands, bins of each)."""
        return runs(self.widths)

    @property
    def overlaps(self) -> bool:
        """Whether a bin may be in more than one band."""
        return sum(self.widths) > self.bins

    def covers(self) -> Tensor:
        """In how many bands each bin is, [F] float32."""
        count = torch.zeros(self.bins)
        for low, high in self.bands:
            count[low:high] += 1
        return count


def side_by_side(widths: Sequence[int], bins: int) -> Layout:
    """BS-RoFormer's bands: of these widths, without gaps or overlaps."""
    ends = list(accumulate(widths))
    if not ends or ends[-1] != bins:
        raise ValueError(f"the bands have {ends[-1] if ends else 0} bins together, the spectrogram has {bins}")
    return Layout(tuple(zip([0, *ends], ends, strict=False)), bins)


def mel(bands: int, nfft: int, samplerate: int) -> Layout:
    """Mel-Band RoFormer's bands: each reaches over the middle between two of bands + 2 points on the mel scale.

    Band k has the bins strictly between the points k and k + 2; the first and last bin belong to the outermost
    bands. (Wang et al. 2023, section 2.2, with the mel scale of Slaney's Auditory Toolbox.)
    """
    top = _mel(samplerate / 2)
    points = [_hertz(top * k / (bands + 1)) for k in range(bands + 2)]
    ranges = []
    for low, high in zip(points, points[2:], strict=False):
        inside = [bin for bin in range(nfft // 2 + 1) if low < bin * samplerate / nfft < high]
        ranges.append([inside[0], inside[-1] + 1] if inside else None)
    if any(each is None for each in ranges):
        raise ValueError(f"{bands} bands are too many for {nfft // 2 + 1} bins: some would be empty")
    ranges[0][0], ranges[-1][1] = 0, nfft // 2 + 1
    return Layout(tuple((low, high) for low, high in ranges), nfft // 2 + 1)


def _mel(hertz: float) -> float:
    """Slaney's scale: linear below 1000 Hz, then logarithmic with 27 steps for each factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mels: float) -> float:
    return mels * 200 / 3 if mels < 15 else 1000 * math.exp((mels - 15) * math.log(6.4) / 27)


class BandSplit(nn.Module):
    """[N, F * V] float32 -> [K, N, D]: each band is normalised and brought to D values."""

    def __init__(self, layout: Layout, values: int, dim: int):
        super().__init__()
        self.layout, self.values = layout, values
        widths = [(count, width * values) for _, count, width in layout.runs]
        self.norms = nn.ParameterList(nn.Parameter(torch.ones(count, width)) for count, width in widths)
        self.linears = ModuleListOf(BandLinear(count, width, dim) for count, width in widths)

    def forward(self, bins: Tensor) -> Tensor:
        """See the class."""
        rows, values = [], self.values
        for (first, count, width), gamma, linear in zip(
            self.layout.runs, self.norms, self.linears, strict=True
        ):
            bands = self.layout.bands[first : first + count]
            run = torch.stack([bins[:, low * values : high * values] for low, high in bands])
            # Silence in a band is a vector of zeros, of which float16 would make 0 / 0.
            run = F.normalize(run, dim=-1) * (gamma.to(run.dtype) * (width * values) ** 0.5)[:, None]
            rows.append(linear(run.to(linear.weight.dtype)))
        return torch.cat(rows)


class BandMasks(nn.Module):
    """The masks of one stem: [K, N, D] -> [N, F * V], an MLP with tanh and a GLU for each band.

    Where bands overlap, it is the sum of their masks.
    """

    def __init__(self, layout: Layout, values: int, dim: int, hidden: int, width: int):
        super().__init__()
        self.layout, self.values = layout, values
        widths = [dim, *[width] * hidden]
        self.hidden = ModuleListOf(BandLinear(len(layout.bands), a, b) for a, b in pairwise(widths))
        self.last = ModuleListOf(
            BandLinear(count, widths[-1], 2 * width * values) for _, count, width in layout.runs
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return self._joined(list(self._masks(tokens)))

    def _masks(self, tokens: Tensor) -> Iterator[Tensor]:
        """[N, bins * V] of each band, a few bands at a time."""
        for (first, count, _), last in zip(self.layout.runs, self.last, strict=True):
            step = at_once(tokens.shape[1], tokens.device)
            for begin in range(0, count, step):
                part = slice(begin, min(begin + step, count))
                bands = slice(first + part.start, first + part.stop)
                x = tokens[bands]
                for layer in self.hidden:
                    x = layer(x, bands).tanh()
                yield from F.glu(last(x, part), dim=-1).unbind()

    def _joined(self, masks: list[Tensor]) -> Tensor:
        """Masks of bands beside each other, [N, F * V].

        Overlapping bands reach as far as the one after the next: every second one makes a row without overlaps,
        and the two rows are added.
        """
        values, bands = self.values, self.layout.bands
        step = 2 if self.layout.overlaps else 1
        rows = []
        for first in range(step):
            pieces, end = [], 0
            for mask, (low, high) in zip(masks[first::step], bands[first::step], strict=True):
                pieces += [mask.new_zeros(len(mask), (low - end) * values), mask]
                end = high
            pieces.append(masks[0].new_zeros(len(masks[0]), (self.layout.bins - end) * values))
            rows.append(torch.cat(pieces, dim=1))
        return rows[0] if step == 1 else rows[0] + rows[1]
