"""Open-Unmix and X-UMX: what stems have of a mix's magnitudes, then where they are in its stereo image.

    mix -> STFT -> magnitudes -> layers of each stem (core.py) -> * magnitudes -> Wiener filter -> inverse STFT

OpenUnmix  a network for each stem, which knows nothing of the others
XUMX       the same layers; every LSTM and every decoder gets the means over all stems (bridges)

The filter couples the stems: each is what is most likely beside all others. So one stem alone needs the layers
of all, unless the options leave the filter out; X-UMX then still runs all encoders and LSTMs. As published, a
window of the filter is 300 frames (Open-Unmix) or the whole track (X-UMX); here the longest is a call.

(Stöter et al. 2019, see core.py; Sawata et al., "All for One and One for All: Improving Music Separation by
Bridging Networks", ICASSP 2021; facts of the published code.)

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
from sepcli.models.openunmix.core import Target
from sepcli.nn.doubles import double_place
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import centred_istft, centred_stft
from sepcli.nn.wiener import wiener

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

FRAMES = 1200  # of a call: four windows of Open-Unmix's filter


@dataclass(frozen=True)
class OpenUnmixConfig:
    """What shapes the weights, and the spectrogram they are for. Defaults are the original constructor's."""

    sources: Sequence[str] = ("vocals", "drums", "bass", "other")
    samplerate: int = 44100  # Hz
    channels: int = 2
    mono: bool = False  # the networks get the mean of the channels' magnitudes, and give one share for all
    nfft: int = 4096  # samples of an STFT window
    hop: int = 1024  # samples
    max_bin: int | None = None  # how many bins the networks hear; None: all. They give shares of all
    hidden: int = 512
    layers: int = 3  # of each LSTM
    unidirectional: bool = False  # LSTMs run forwards only


@dataclass(frozen=True)
class XUMXConfig(OpenUnmixConfig):
    """The same of X-UMX."""

    sources: Sequence[str] = ("bass", "drums", "vocals", "other")


@dataclass(frozen=True)
class UnmixOptions:
    """How the networks' estimates become stems. The defaults are the published ones.

    iterations: of the Wiener filter; 0 leaves it out; None: 1 where there are several stems, else 0.
    softmask: it begins with the share of each estimate in the sum of all, raised to `exponent`, of the mix; not
    with the estimates in the mix's phase.
    residual: one more source in the filter, which begins as what the estimates leave of the mix.
    frames: of a filter's window; None: as published; 0: a whole call.
    """

    iterations: int | None = None
    softmask: bool = False
    exponent: float = 1.0
    residual: bool = False
    frames: int | None = None

    def __post_init__(self) -> None:
        check_options(self, iterations=0, exponent=1e-3, frames=0)


class Unmix(Separator):
    """What both have in common: all of the file's head but the order in which layers run."""

    keeps_silence = True
    window: Tensor  # [nfft]
    options: UnmixOptions
    eps: float  # of the filter, see nn/wiener.py
    frames: int  # of a window of the filter; 0: a whole call
    precision: torch.dtype  # of the filter

    def __init__(self, config: OpenUnmixConfig):
        super().__init__()
        bins = config.nfft // 2 + 1
        heard = bins if config.max_bin is None else config.max_bin
        if not 0 < heard <= bins:
            raise ValueError(f"there are {bins} bins, so the networks can't hear {heard}")
        if config.hidden % 2 or config.hidden < 2:
            raise ValueError(f"hidden is {config.hidden}, but must be an even number")
        if config.channels not in (1, 2):
            raise ValueError(f"channels is {config.channels}, but must be 1 or 2")
        if not 0 < config.hop <= config.nfft // 2:
            raise ValueError(f"hop is {config.hop}, but must be from 1 to half of nfft, {config.nfft // 2}")
        self.config, self.options = config, UnmixOptions()
        self.sources = tuple(config.sources)
        self.known: tuple[str, ...] = self.sources  # of the networks; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, config.channels
        # A short last call is a window that ends with the track, so that a track in one call is as published.
        self.segment = Segment(samples=(FRAMES - 1) * config.hop, tail="short")
        channels = 1 if config.mono else config.channels
        self.targets = ModuleListOf(
            Target(channels, bins, heard, config.hidden, config.layers, config.unidirectional)
            for _ in self.sources
        )
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> Unmix:
        """See Separator."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed

    def used(self) -> dict[str, Any]:
        """See Separator: all options, filled in."""
        return asdict(replace(self.options, iterations=self._iterations(), frames=self._window() or 0))

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples = mix.shape[-1]
        mix = F.pad(mix, (0, max(self.config.nfft - samples, 0)))  # mirrored ends need some audio
        spec = self.spectrogram(mix)
        coupled = self._iterations() > 0 or self.options.softmask
        names = self.known if coupled else self.sources
        estimates = self.magnitudes(spec.abs(), names).expand(-1, -1, self.channels, -1, -1)
        place = double_place(mix.device) if self.precision == torch.float64 else mix.device
        stems = wiener(
            spec.to(place).to(self.precision.to_complex()),
            estimates.to(place).to(self.precision),
            eps=self.eps,
            mask_power=self.options.exponent if self.options.softmask else None,
            iterations=self._iterations(),
            frames=self._window(),
            residual=self.options.residual,
        )
        stems = stems[:, source_indices(names, self.sources)].to(spec.dtype).to(mix.device)
        return self.wave(stems, mix.shape[-1])[..., :samples]

    # --- the parts ---

    def spectrogram(self, wave: Tensor) -> Tensor:
        """[..., C, T] -> complex [..., C, N, F]; T of half a window at least."""
        return centred_stft(wave, self.window, self.config.hop).transpose(-1, -2)

    def wave(self, spec: Tensor, samples: int) -> Tensor:
        """Its inverse: [..., C, N, F] -> [..., C, T = samples]."""
        return centred_istft(spec.transpose(-1, -2), self.window, self.config.hop, samples)

    def magnitudes(self, mix: Tensor, sources: Sequence[str]) -> Tensor:
        """Estimates of these stems: the mix's [B, C, N, F] -> [B, S, C, N, F]; C = 1 where mono."""
        mix = mix.mean(dim=1, keepdim=True) if self.config.mono else mix
        index = source_indices(self.known, sources)
        return torch.stack(self.shares(mix, index), dim=1) * mix[:, None]

    def shares(self, mix: Tensor, index: Sequence[int]) -> list[Tensor]:
        """What the stems of these numbers have of a mix: its magnitudes [B, C, N, F] -> each [B, C, N, F]."""
        raise NotImplementedError

    def _iterations(self) -> int:
        several = len(self.known) > 1 or self.options.residual
        wanted = self.options.iterations
        if wanted and not several:
            raise UsageError(
                f"The model has one stem, {', '.join(self.known)}, and the filter needs another beside it.",
                code="bad_option",
                remedy=f"Leave iterations out ({parameter('options')}), or add residual=true.",
            )
        return (1 if several else 0) if wanted is None else wanted

    def _window(self) -> int | None:
        frames = self.frames if self.options.frames is None else self.options.frames
        return frames or None


class OpenUnmix(Unmix):
    """Networks that know nothing of each other."""

    eps, frames, precision = 1e-10, 300, torch.float32

    def shares(self, mix: Tensor, index: Sequence[int]) -> list[Tensor]:
        """See Unmix."""
        found = []
        for target in (self.targets[i] for i in index):
            e = target.encode(mix)
            found.append(target.decode(e, target.recur(e)))
        return found


class XUMX(Unmix):
    """Networks with bridges: the means over all stems."""

    eps, frames, precision = torch.finfo(torch.float64).eps, 0, torch.float64  # as norbert has them

    def shares(self, mix: Tensor, index: Sequence[int]) -> list[Tensor]:
        """See Unmix."""
        e = torch.stack([target.encode(mix) for target in self.targets]).mean(dim=0)
        recurred = torch.stack([target.recur(e) for target in self.targets]).mean(dim=0)
        return [self.targets[i].decode(e, recurred) for i in index]
