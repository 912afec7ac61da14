"""Spleeter: a U-Net for each stem looks at the magnitudes of the mix; their outputs become masks.

    mix -> STFT -> magnitudes -> U-Nets, on blocks of frames -> masks -> * spectrogram -> inverse STFT -> stems

Blocks are counted from a window before the first sample of a call and know nothing of each other. The networks
see the lowest bins only, 1024 of windows of 4096 samples: up to 11 kHz. The Options say how their outputs
become masks, and what is done above. (Hennequin et al., "Spleeter: a fast and efficient music source separation
tool with pre-trained models", Journal of Open Source Software, 2020; facts of its published code.)

Axes: B batch, S sources, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.errors import UsageError, parameter
from sepcli.models.config import check_options
from sepcli.models.spleeter.unet import MULTIPLE, UNet
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import spleeter_istft, spleeter_stft
from sepcli.nn.wiener import wiener

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

FLOOR = 1e-10  # of the sum of all outputs' powers
WIENER_EPS = torch.finfo(torch.float32).eps  # as norbert has it in single precision
OUTPUTS = ("sigmoid", "softmax")
MASKS = ("ratio", "network")
EXTENSIONS = ("zeros", "average")


@dataclass(frozen=True)
class SpleeterConfig:
    """What shapes the weights, and the spectrogram they are for."""

    sources: Sequence[str] = ("vocals", "accompaniment")  # in the order of the networks
    samplerate: int = 44100  # Hz
    channels: int = 2
    frame_length: int = 4096  # samples of an STFT window; the hop is a quarter
    frames: int = 512  # of a block
    bins: int = 1024  # that the networks see
    filters: Sequence[int] = (16, 32, 64, 128, 256, 512)  # channels of the convolutions
    conv_activation: str = "LeakyReLU"  # on the way down: LeakyReLU (0.2), ReLU or ELU
    deconv_activation: str = "ReLU"  # on the way up
    output: str = "sigmoid"  # of each network's logits; softmax: over the stems, which are then coupled
    extension: str = "zeros"  # the option of that name, where it is not given


@dataclass(frozen=True)
class SpleeterOptions:
    """How the networks' outputs become stems; the defaults are those of the published configurations.

    masks: "ratio": an output's share in the power of all; "network": the output itself, with the mix's phase;
    None: "network" where there is one network only, else "ratio".
    extension: above the bins that the networks see: "zeros", silence; "average", the frame's average mask;
    None: as the model's config has it.
    mwf: a multichannel Wiener filter over each call begins with that and takes the place of the power.
    """

    masks: str | None = None
    exponent: float = 2.0  # of the outputs in ratio masks
    extension: str | None = None
    bins: int | None = None  # that the networks see; None: as in training, 1536 is what Spleeter calls 16 kHz
    mwf: bool = False

    def __post_init__(self) -> None:
        check_options(self, exponent=1e-3, bins=MULTIPLE)
        for name, value, allowed in (("masks", self.masks, MASKS), ("extension", self.extension, EXTENSIONS)):
            if value is not None and value not in allowed:
                raise UsageError(
                    f"The option {name} is '{value}', but must be {' or '.join(allowed)}.",
                    code="bad_option",
                    remedy=f"Correct {name} ({parameter('options')}), or leave it out.",
                )


class Spleeter(Separator):
    """The networks of the file's head: [B, C, T] -> [B, S, C, T]."""

    keeps_silence = True
    window: Tensor  # [frame_length]
    options: SpleeterOptions

    def __init__(self, config: SpleeterConfig):
        super().__init__()
        if config.frames % MULTIPLE or config.bins % MULTIPLE:
            raise ValueError(f"frames and bins must be multiples of {MULTIPLE}")
        if config.bins > config.frame_length // 2:
            raise ValueError(
                f"there are {config.frame_length // 2 + 1} bins, so the networks can't see {config.bins}"
            )
        for name, allowed in (("output", OUTPUTS), ("extension", EXTENSIONS)):
            if getattr(config, name) not in allowed:
                raise ValueError(f"{name} is '{getattr(config, name)}', but must be {' or '.join(allowed)}")
        self.config, self.options = config, SpleeterOptions()
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the networks; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, config.channels
        # One block is a call; the first window stands before it, so a call has four frames less. A short
        # last call begins a block too, so that a track in one call is cut as published.
        self.segment = Segment(samples=(config.frames - 4) * config.frame_length // 4, tail="short")
        self.unets = ModuleListOf(
            UNet(config.channels, config.filters, config.conv_activation, config.deconv_activation)
            for _ in self.sources
        )
        self.register_buffer("window", torch.hann_window(config.frame_length), persistent=False)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> Spleeter:
        """See Separator."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed

    def used(self) -> dict[str, Any]:
        """See Separator: all options, filled in."""
        return asdict(replace(self.options, bins=self._bins(), masks=self._how(), extension=self._above()))

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        spec = spleeter_stft(mix, self.window)  # [B, C, N, F]
        blocks = spec.split(self.config.frames, dim=2)
        if self.options.mwf:
            masks = torch.cat(
                [self._extended(self._outputs(block.abs(), self.known)) for block in blocks], dim=3
            )
            masks = F.pad(masks, (0, spec.shape[-1] - masks.shape[-1]))
            power = 1 if self._how() == "ratio" else None
            stems = wiener(spec, masks * spec.abs()[:, None], eps=WIENER_EPS, mask_power=power)
            stems = stems[:, source_indices(self.known, self.sources)]
        else:
            stems = torch.cat([self._masked(block) for block in blocks], dim=3)
        return spleeter_istft(stems, mix.shape[-1], self.window)

    # --- the parts ---

    def magnitudes(self, mix: Tensor) -> Tensor:
        """The networks' estimates of all stems: magnitudes [B, C, N, F] -> [B, S, C, N, bins]; N <= frames."""
        return self._outputs(mix, self.known) * mix[:, None, ..., : self._bins()]

    def _masked(self, spec: Tensor) -> Tensor:
        """The stems in one block: complex [B, C, N, F] -> [B, S, C, N, F or bins], silent in all other bins."""
        masks = self._masks(spec.abs())
        return masks * spec[:, None, ..., : masks.shape[-1]]

    def _masks(self, mix: Tensor) -> Tensor:
        """The masks in one block: magnitudes [B, C, N, F] -> [B, S, C, N, F or bins]."""
        if self._how() == "network":
            return self._extended(self._outputs(mix, self.sources))
        power = self.magnitudes(mix) ** self.options.exponent
        masks = (power + FLOOR / len(self.known)) / (power.sum(dim=1, keepdim=True) + FLOOR)
        return self._extended(masks[:, source_indices(self.known, self.sources)])

    def _outputs(self, mix: Tensor, sources: Sequence[str]) -> Tensor:
        """The shares that networks give these stems: magnitudes [B, C, N, F] -> [B, S, C, N, bins]."""
        frames, bins = mix.shape[-2], self._bins()
        heard = F.pad(mix[..., :bins], (0, 0, 0, self.config.frames - frames))
        coupled = self.config.output == "softmax"
        index = source_indices(self.known, self.known if coupled else sources)
        logits = torch.stack([self.unets[i](heard) for i in index], dim=1)[..., :frames, :]
        if not coupled:
            return logits.sigmoid()
        return logits.softmax(dim=1)[:, source_indices(self.known, sources)]

    def _extended(self, masks: Tensor) -> Tensor:
        """The masks above the bins that were seen: [..., bins] -> [..., F], or as they are for zeros."""
        if self._above() == "zeros":
            return masks
        missing = len(self.window) // 2 + 1 - masks.shape[-1]
        return torch.cat([masks, masks.mean(dim=-1, keepdim=True).expand(*masks.shape[:-1], missing)], dim=-1)

    def _how(self) -> str:
        """How outputs become masks, after the options: the share of one network alone would be 1."""
        return self.options.masks or ("ratio" if len(self.known) > 1 else "network")

    def _above(self) -> str:
        """What is done above the bins that are seen, after the options."""
        return self.options.extension or self.config.extension

    def _bins(self) -> int:
        """How many bins the networks see, after the options."""
        bins = self.options.bins or self.config.bins
        most = self.config.frame_length // 2 // MULTIPLE * MULTIPLE
        if bins % MULTIPLE or bins > most:
            raise UsageError(
                f"The option bins is {bins}, but must be a multiple of {MULTIPLE} up to {most}.",
                code="bad_option",
                remedy=f"Correct bins ({parameter('options')}), or leave it out.",
            )
        return bins
