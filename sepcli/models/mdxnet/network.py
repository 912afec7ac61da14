"""MDX-Net (TFC-TDF v2): a U-Net maps the spectrogram of the mix to that of one stem.

    mix -> STFT -> lowest bins -> U-Net: blocks, halving and doubling both axes -> inverse STFT -> stem

There is no mask: the network's output is the spectrogram itself, and above the bins that it sees the stem is
silent. (Kim et al., "KUIELab-MDX-Net: A Two-Stream Neural Network for Music Demixing", arXiv:2111.12203; facts
of the published code and of what UVR does with such networks.)

Axes: B batch, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.models.mdxnet.blocks import Block, ConvNorm, FrequencyLinear
from sepcli.models.mdxnet.config import MDXNetConfig, MDXNetOptions
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


class MDXNet(Separator):
    """The network of the file's head: [B, C, T] -> [B, 1, C, T]."""

    window: Tensor  # [nfft]
    gain: Tensor  # []
    options: MDXNetOptions

    def __init__(self, config: MDXNetConfig):
        super().__init__()
        _check(config)
        self.config, self.options = config, MDXNetOptions()
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        # What the window's half hears of mirrored or missing audio at the ends of a call is thrown away.
        self.segment = Segment(samples=config.hop * (config.frames - 1), margin=config.nfft // 2)
        norm, growth = not config.folded, config.growth
        widths = [growth * (level + 1) for level in range(config.scales + 1)]
        bins = [config.bins >> level for level in range(config.scales + 1)]
        blocks = [
            Block(c, f, config.convs, config.bottleneck, norm=norm) for c, f in zip(widths, bins, strict=True)
        ]
        self.first = ConvNorm(nn.Conv2d(2 * config.channels, growth, 1), norm=norm)
        self.encoders = ModuleListOf(blocks[:-1])
        self.downs = ModuleListOf(
            ConvNorm(nn.Conv2d(c, c + growth, 2, stride=2), norm=norm) for c in widths[:-1]
        )
        self.middle = blocks[-1]
        self.ups = ModuleListOf(
            ConvNorm(nn.ConvTranspose2d(c, c - growth, 2, stride=2), norm=norm) for c in reversed(widths[1:])
        )
        self.decoders = ModuleListOf(
            Block(c, f, config.convs, config.bottleneck, norm=norm)
            for c, f in zip(reversed(widths[:-1]), reversed(bins[:-1]), strict=True)
        )
        self.last = nn.Conv2d(growth, 2 * config.channels, 1)
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)
        gain = 1.0 if config.compensate is None else config.compensate
        self.register_buffer("gain", torch.tensor(gain))  # what the estimate is multiplied by

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator. The weights stay float32; what `fold` sets up has the type."""
        super().prepare(samples, device, dtype)
        for module in self.modules():
            if isinstance(module, ConvNorm | FrequencyLinear):
                module.fold(device, dtype)

    def select(self, sources: Sequence[str]) -> MDXNet:
        """See Separator: there is one stem."""
        source_indices(self.sources, sources)
        return sharing_copy(self)

    def used(self) -> dict[str, Any]:
        """See Separator."""
        compensate = self.options.compensate
        gain = self.gain.item() if compensate is None else compensate
        return {"denoise": self.options.denoise, "compensate": round(gain, 6)}

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, 1, C, T]."""
        config, samples = self.config, mix.shape[-1]
        padded = F.pad(mix, (0, self._whole(samples) - samples))
        x = self._bins(centred_stft(padded, self.window, config.hop))
        y = self.network(x)
        if self.options.denoise:
            y = (y - self.network(-x)) / 2
        batch, _, frames, bins = y.shape
        spec = y.float().view(batch, config.channels, 2, frames, bins).permute(0, 1, 4, 3, 2)
        spec = spec * (self.gain if self.options.compensate is None else self.options.compensate)
        spec = torch.view_as_complex(F.pad(spec.contiguous(), (0, 0, 0, 0, 0, config.nfft // 2 + 1 - bins)))
        return centred_istft(spec, self.window, config.hop, padded.shape[-1])[:, None, :, :samples]

    # --- the parts ---

    def network(self, x: Tensor) -> Tensor:
        """Real and imaginary parts of all channels, [B, 2 C, N, F] -> the stem's. 2 ** scales divides N."""
        last = self.last
        dtype = last.weight.dtype if self.training or self.first.ready is None else self.first.ready[0].dtype
        x = self.first(x.to(dtype, memory_format=torch.channels_last))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) * skips.pop())
        assert last.bias is not None
        return F.conv2d(x, last.weight.to(dtype), last.bias.to(dtype)).contiguous()

    def _bins(self, spec: Tensor) -> Tensor:
        """Complex [B, C, F, N] -> what the network sees of it, real [B, 2 C, N, bins]."""
        heard = spec[:, :, : self.config.bins].transpose(-1, -2)
        x = torch.view_as_real(heard).permute(0, 1, 4, 2, 3).flatten(1, 2)
        if self.config.deaf:
            x = torch.cat([torch.zeros_like(x[..., : self.config.deaf]), x[..., self.config.deaf :]], dim=-1)
        return x

    def _whole(self, samples: int) -> int:
        """The next length with a number of frames that can be halved at every scale."""
        step, hop = 2**self.config.scales, self.config.hop
        least = max(samples, self.config.nfft // 2 + 1)  # mirroring at the ends needs more than half a window
        return hop * (-(-(-(-least // hop) + 1) // step) * step - 1)


def _check(config: MDXNetConfig) -> None:
    """ValueError for a network that can't be."""
    step = 2**config.scales
    if len(config.sources) != 1:
        raise ValueError(f"sources has {len(config.sources)} stems, but a network makes exactly one")
    for name in ("bins", "frames"):
        if getattr(config, name) % step:
            raise ValueError(f"{name} must be a multiple of {step} (2 ** scales)")
    if (config.bins >> config.scales) < config.bottleneck:
        raise ValueError(
            f"bottleneck must be at most {config.bins >> config.scales}, the bins of the lowest level"
        )
    if config.bins > config.nfft // 2 + 1:
        raise ValueError(
            f"a window of {config.nfft} samples has {config.nfft // 2 + 1} bins, not {config.bins}"
        )
    if config.hop * (config.frames - 1) <= config.nfft:
        raise ValueError("a call must be longer than a window")
