"""D3Net: a network for each stem estimates magnitudes; a multichannel Wiener filter makes stems of all of them.

    mix -> STFT -> magnitudes -> patches of frames, two over each frame -> networks -> mean -> phase of the mix
        -> Wiener filter over the call -> inverse STFT -> stems

Each patch is heard a second time with its channels swapped. Above the bins that the networks estimate, an
estimate is the mix itself, of which the filter gives each stem its share. (Takahashi and Mitsufuji, "Densely
connected multidilated convolutional networks for dense prediction tasks", CVPR 2021; facts of its published
code.)

Axes: B batch, S sources, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.models.d3net.dense import BandShape, Net, NetShape, multiple
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import centred_istft, centred_stft
from sepcli.nn.wiener import wiener_from_stems

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

CALL = 768  # frames of a call: whole patches of 256 and of 384


@dataclass(frozen=True)
class D3NetConfig:
    """What shapes the weights.

    Of settings that may differ from stem to stem there is one for each source, or one for all. Those of the
    blocks of a band are from the highest resolution down, and up again.
    """

    sources: Sequence[str] = ("vocals", "drums", "bass", "other")
    samplerate: int = 44100  # Hz
    nfft: int = 4096  # samples of an STFT window
    hop: int = 1024  # samples
    bins: int = 1600  # that are estimated
    patch: Sequence[int] = (256, 256, 384, 256)  # frames that a network sees at once
    split: Sequence[int] = (256, 128, 192, 256)  # bins of the low band
    features: Sequence[int] = (32, 8, 32)  # channels that begin the low, high and full band
    blocks: Sequence[int] = (2, 1, 2)  # D2 blocks in a D3 block, of the same three
    low_growth: Sequence[Sequence[int]] = (
        (16, 18, 20, 22, 20, 18, 16),
        (16, 18, 20, 22, 20, 18, 16),
        (16, 18, 18, 20, 18, 16, 16),
        (16, 18, 20, 22, 20, 18, 16),
    )
    low_layers: Sequence[Sequence[int]] = (
        (5, 5, 5, 5, 4, 4, 4),
        (5, 5, 5, 4, 4, 4, 4),
        (5, 5, 5, 5, 4, 4, 4),
        (5, 5, 5, 5, 4, 4, 4),
    )
    high_growth: Sequence[Sequence[int]] = ((2,) * 5, (2,) * 5, (2,) * 7, (2,) * 5)
    high_layers: Sequence[Sequence[int]] = ((1,) * 5, (1,) * 5, (1,) * 7, (1,) * 5)
    full_growth: Sequence[Sequence[int]] = (
        (13, 14, 15, 16, 17, 16, 14, 12, 11),
        (13, 14, 15, 16, 16, 16, 14, 12, 11),
        (10, 10, 12, 14, 16, 14, 12, 8, 8),
        (13, 14, 15, 16, 17, 16, 14, 12, 11),
    )
    full_layers: Sequence[Sequence[int]] = (
        (4, 5, 6, 7, 8, 6, 5, 4, 4),
        (4, 5, 6, 7, 8, 6, 6, 4, 4),
        (4, 5, 6, 7, 8, 6, 6, 4, 4),
        (4, 5, 6, 7, 8, 6, 5, 4, 4),
    )
    final_growth: int = 12  # of the last block
    final_layers: int = 3


@dataclass(frozen=True)
class D3NetOptions:
    """How the networks' estimates become stems.

    flip: every patch once more with its channels swapped, and the mean of both; twice the work.
    mwf: the Wiener filter, for which all networks run; without it an estimate has the phase of the mix.
    """

    flip: bool = True
    mwf: bool = True


class D3Net(Separator):
    """The networks of the file's head: [B, C, T] -> [B, S, C, T]."""

    window: Tensor  # [nfft]
    options: D3NetOptions

    def __init__(self, config: D3NetConfig):
        super().__init__()
        self.config, self.options = config, D3NetOptions()
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the networks; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, 2
        shapes = net_shapes(config)
        self.patches = _for_each(config, "patch")
        for frames, shape in zip(self.patches, shapes, strict=True):
            if frames % (2 * multiple(shape)):
                raise ValueError(f"patch is {frames} frames, but must be a multiple of {2 * multiple(shape)}")
        self.segment = Segment(samples=(CALL - 1) * config.hop, tail="short")
        self.nets = ModuleListOf(Net(self.channels, shape) for shape in shapes)
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> D3Net:
        """See Separator."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed

    def used(self) -> dict[str, Any]:
        """See Separator."""
        return asdict(self.options)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples, least = mix.shape[-1], self.config.nfft // 2 + 1  # the ends are mirrored
        mix = F.pad(mix, (0, max(0, least - samples)))
        spec = centred_stft(mix, self.window, self.config.hop).transpose(-1, -2)  # [B, C, N, F]
        stems = self.stems(spec).transpose(-1, -2)
        return centred_istft(stems, self.window, self.config.hop, mix.shape[-1])[..., :samples]

    # --- the parts ---

    def stems(self, spec: Tensor) -> Tensor:
        """complex [B, C, N, F] -> complex [B, S, C, N, F]."""
        made = self.known if self.options.mwf else self.sources
        sizes = torch.stack([self.magnitudes(spec.abs(), name) for name in made], dim=1)
        stems = torch.polar(sizes, spec.angle()[:, None].expand_as(sizes))
        if self.options.mwf:
            stems = wiener_from_stems(spec, stems)[:, source_indices(made, self.sources)]
        return stems

    def magnitudes(self, mix: Tensor, source: str) -> Tensor:
        """The estimate of one stem, from patches: magnitudes [B, C, N, F] -> the same."""
        (index,) = source_indices(self.known, [source])
        frames, length = mix.shape[-2], self.patches[index]
        half = length // 2
        count = -(-frames // half)  # half patches with something in them
        heard = F.pad(mix, (0, 0, half, (count + 1) * half - frames))
        sums = torch.zeros_like(heard[..., : self.config.bins])
        for begin in range(0, (count + 1) * half, half):
            patch = heard[..., begin : begin + length, :]
            sums[..., begin : begin + length, :] += self._estimate(self.nets[index], patch)
        estimate = sums[..., half : half + frames, :] / 2
        return torch.cat([estimate, mix[..., self.config.bins :]], dim=-1)

    def _estimate(self, net: Net, patch: Tensor) -> Tensor:
        """One patch: [B, C, N, F] -> [B, C, N, bins]."""
        if not self.options.flip:
            return net(patch)
        plain, swapped = net(torch.cat([patch, patch.flip(1)])).chunk(2)
        return (plain + swapped.flip(1)) / 2


def net_shapes(config: D3NetConfig) -> list[NetShape]:
    """The shape of each source's network. ValueError where settings are missing or can't be."""
    of = {
        name: _for_each(config, name)
        for name in (
            "split",
            "low_growth",
            "low_layers",
            "high_growth",
            "high_layers",
            "full_growth",
            "full_layers",
        )
    }
    shapes = []
    for i in range(len(config.sources)):
        low, high, full = (
            BandShape(features, of[f"{name}_growth"][i], of[f"{name}_layers"][i], blocks)
            for name, features, blocks in zip(
                ("low", "high", "full"), config.features, config.blocks, strict=True
            )
        )
        shapes.append(
            NetShape(
                bins=config.nfft // 2 + 1,
                estimated=config.bins,
                split=of["split"][i],
                low=low,
                high=high,
                full=full,
                growth=config.final_growth,
                layers=config.final_layers,
            )
        )
    return shapes


def _for_each(config: D3NetConfig, name: str) -> list[Any]:
    """A setting for each source."""
    values, count = list(getattr(config, name)), len(config.sources)
    if len(values) not in (1, count):
        raise ValueError(
            f"{name} has {len(values)} entries, but must have one, or {count} as there are sources"
        )
    return values * count if len(values) == 1 else values
