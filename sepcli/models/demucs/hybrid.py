"""What the hybrid networks share: two U-Nets, one over the spectrogram and one over the wave, that meet.

Knows no transformer and no files. Subclasses say what happens at the bottom (`bottleneck`).

    mix --.-- STFT -- standardise -- encoder ---.            .--- decoder --- iSTFT --.
          |                                      > bottleneck                          + -- stems
          '--------- standardise -- tencoder ---'            '--- tdecoder -----------'

Every level divides F (spectral) or T (temporal) by the stride. If there are enough levels for F to become 1,
both branches have the same length there, are added, and the levels below are plain ones over time; the
decoder parts them again at that level.

Axes: B batch, S sources, C channels, F frequency bins, N frames, T samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import sepcli.models.demucs.spectral as spectral
from sepcli.engine.separator import Separator, narrowed_copy, source_indices
from sepcli.errors import ModelError
from sepcli.models.demucs.dconv import fold_refinements
from sepcli.models.demucs.layers import (
    DecoderLayer,
    EncoderLayer,
    MultiDecoder,
    MultiEncoder,
    ScaledEmbedding,
    channels_last,
    rescale_convolutions,
)
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import demucs_istft, demucs_stft, demucs_window

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

EPSILON = 1e-5  # added to a standard deviation before dividing by it


def segment_samples(segment: Fraction | float, samplerate: int) -> int:
    """Seconds -> samples, rounded down; exact for a Fraction."""
    return int(segment * samplerate)


def refuse(fact: str) -> ModelError:
    """The error for a config that no network here can follow; fact: why, as a sentence."""
    return ModelError(fact, remedy="Correct the model's config in the catalogue.", code="bad_config")


def check(config: Any) -> None:
    """ModelError where the config asks for what no published network has, or contradicts itself."""
    if config.wiener_iters != config.end_iters:
        raise refuse(f"wiener_iters={config.wiener_iters} and end_iters={config.end_iters} differ.")
    if config.wiener_iters > 0 and not config.cac:
        raise refuse(f"wiener_iters={config.wiener_iters}: only 0 and below (no Wiener filter) exist.")
    least = min(config.channels, config.channels_time or config.channels)
    if config.dconv_mode and least < config.dconv_comp:
        raise refuse(f"dconv_comp={config.dconv_comp:g} leaves nothing of {least} channels.")
    bins, samples = config.nfft // 2, 1
    for _ in range(config.depth):
        samples *= config.stride
        if bins <= config.kernel_size:
            if samples != config.nfft // 4:
                raise refuse(f"The branches can't meet: {samples} samples a step against {config.nfft // 4}.")
            break
        bins //= config.stride
    if not config.multi_freqs:
        return
    if config.norm_starts < config.multi_freqs_depth:
        raise refuse("multi_freqs need levels without norm: norm_starts of at least multi_freqs_depth.")
    if config.kernel_size != 2 * config.stride or config.kernel_size % 4:
        raise refuse("multi_freqs need a kernel_size of twice the stride and a multiple of 4.")
    if config.nfft // 2 <= config.kernel_size * config.stride ** (config.multi_freqs_depth - 1):
        raise refuse(f"multi_freqs_depth={config.multi_freqs_depth} is deeper than there are bins to split.")


def freeze_lists(config: Any) -> None:
    """Lists, as JSON and TOML give them, become tuples: equal configs are then equal and hashable."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            object.__setattr__(config, field.name, tuple(value))


def standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero mean and unit deviation for each item of [B, ...]; the means and the deviations are [B, 1, ...]."""
    dims = tuple(range(1, x.dim()))
    unbiased = 1 if x[0].numel() > 1 else 0  # a single value has no unbiased deviation
    variance, mean = torch.var_mean(x, dim=dims, keepdim=True, correction=unbiased)
    deviation = variance.sqrt()
    return (x - mean) / (EPSILON + deviation), mean, deviation


class HybridUNet(Separator):
    """Both U-Nets and everything around them: [B, C, T] -> [B, S, C, T].

    Built from the fields that HDemucsConfig and HTDemucsConfig have in common.
    """

    normalize = True
    old_stft = False

    def __init__(self, config: Any, *, attn_starts: int | None = None, lstm_starts: int | None = None):
        """attn_starts, lstm_starts: first level with attention or LSTMs in its DConv; None: nowhere."""
        super().__init__()
        check(config)
        self.config = config
        self.sources = config.sources
        self.samplerate = config.samplerate
        self.channels = config.audio_channels
        self.computed = len(config.sources)  # sources that the last layers compute
        self.picked: list[int] | None = None  # positions of the wanted ones among them; None: all
        self.window: Tensor | None = None  # of the STFT, kept by `prepare`
        self._build(config, attn_starts, lstm_starts)
        if config.rescale:
            rescale_convolutions(self, config.rescale)

    def _build(self, config: Any, attn_starts: int | None, lstm_starts: int | None) -> None:
        encoder: list[EncoderLayer | MultiEncoder] = []
        decoder: list[DecoderLayer | MultiDecoder] = []
        tencoder: list[EncoderLayer] = []
        tdecoder: list[DecoderLayer] = []
        bins = config.nfft // 2
        embedding = (0, 0)  # bins and channels behind the first level
        parts = 2 if config.cac else 1  # a complex number is two channels
        chin, chin_t = parts * config.audio_channels, config.audio_channels
        chout, chout_t = config.channels, config.channels_time or config.channels
        out, out_t = chin * len(config.sources), chin_t * len(config.sources)

        for index in range(config.depth):
            freq = bins > 1
            merges = freq and bins <= config.kernel_size  # one window takes all the bins that are left
            if merges:
                chout = chout_t = max(chout, chout_t)
            dconv = {
                "compress": config.dconv_comp,
                "depth": config.dconv_depth,
                "init": config.dconv_init,
                "attn": attn_starts is not None and index >= attn_starts,
                "lstm": lstm_starts is not None and index >= lstm_starts,
            }
            common = {
                "norm_groups": config.norm_groups if index >= config.norm_starts else 0,
                "rewrite": config.rewrite,
            }
            down = {**common, "context": config.context_enc}
            down["dconv"] = dconv if config.dconv_mode & 1 else None
            up = {**common, "context": config.context, "last": index == 0}
            up["dconv"] = dconv if config.dconv_mode & 2 else None
            shape = {"kernel_size": config.kernel_size, "stride": config.stride, "freq": True}
            shape_t = {**shape, "freq": False}
            if merges:
                shape |= {"kernel_size": bins, "pad": False}
            elif not freq:
                shape = {"kernel_size": 2 * config.time_stride, "stride": config.time_stride, "freq": False}

            if freq:
                tencoder.append(EncoderLayer(chin_t, chout_t, **shape_t, **down, empty=merges))
                tdecoder.append(DecoderLayer(chout_t, out_t, **shape_t, **up, empty=merges))
            if config.multi_freqs and index < config.multi_freqs_depth:
                ratios = config.multi_freqs
                encoder.append(MultiEncoder(ratios, chin=chin, chout=chout, **shape, **down))
                up["context_freq"] = False
                decoder.append(MultiDecoder(ratios, chin=chout, chout=out, **shape, **up))
            else:
                encoder.append(EncoderLayer(chin, chout, **shape, **down))
                decoder.append(DecoderLayer(chout, out, **shape, **up))

            chin, chin_t = out, out_t = chout, chout_t
            chout, chout_t = int(config.growth * chout), int(config.growth * chout_t)
            if freq:
                bins = 1 if merges else bins // config.stride
            if index == 0:
                embedding = (bins, chin)

        self.encoder = ModuleListOf(encoder)
        self.decoder = ModuleListOf(reversed(decoder))
        self.tencoder = ModuleListOf(tencoder)
        self.tdecoder = ModuleListOf(reversed(tdecoder))
        self.freq_emb = None
        if config.freq_emb:
            self.freq_emb = ScaledEmbedding(*embedding, scale=config.emb_scale, smooth=config.emb_smooth)

    @torch.inference_mode(False)  # the network may be trained later
    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the weights are stored in `dtype`; spectrograms and statistics stay float32."""
        super().prepare(samples, device, dtype)
        fold_refinements(self, dtype)
        self.to(dtype)
        channels_last(self)
        self.window = demucs_window(self.config.nfft, device)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32."""
        samples = mix.shape[-1]
        dtype = next(self.parameters()).dtype
        window = self.window
        if window is None or window.device != mix.device:
            window = demucs_window(self.config.nfft, mix.device)

        spec = demucs_stft(mix, window, old=self.old_stft)
        x, mean, deviation = standardise(spectral.to_channels(spec, self.config.cac))
        xt, mean_t, deviation_t = standardise(mix)
        order = {"dtype": dtype, "memory_format": torch.channels_last}
        x, xt = self.unet(x.to(**order), xt[:, :, None].to(**order))

        xt = torch.addcmul(mean_t, xt.float().squeeze(2), deviation_t)
        x, xt = (y.unflatten(1, (self.computed, -1)) for y in (x, xt))
        # Stem by stem: the spectrograms of all at once would be the largest tensors of the whole call.
        stems = []
        for index in range(self.computed) if self.picked is None else self.picked:
            stem = torch.addcmul(mean, x[:, index].float(), deviation)[:, None]
            if self.config.cac:
                stem = spectral.from_complex_channels(stem)
            else:
                stem = spectral.from_magnitudes(stem, spec, damped=self.config.wiener_iters < 0)
            stems.append(demucs_istft(stem, samples, window, old=self.old_stft)[:, 0] + xt[:, index])
        return torch.stack(stems, dim=1)

    def unet(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both U-Nets: standardised spectrogram [B, C, F, N] and wave [B, C, 1, T] -> both of S·C channels."""
        skips, skips_t, lengths, lengths_t = [], [], [], []
        for index, encode in enumerate(self.encoder):
            lengths.append(x.shape[-1])
            inject = None
            if index < len(self.tencoder):
                lengths_t.append(xt.shape[-1])
                xt = self.tencoder[index](xt)
                if self.tencoder[index].empty:
                    inject = xt
                else:
                    skips_t.append(xt)
            x = encode(x, inject)
            if index == 0 and self.freq_emb is not None:
                # Convolutions over frequency can't tell low from high; this tells them.
                x = x + self.config.freq_emb * self.freq_emb.weight.T[:, :, None]
            skips.append(x)

        y, yt = self.bottleneck(x, xt)
        del x, xt  # the decoders need the most memory

        parting = len(self.decoder) - len(self.tdecoder)
        for index, decode in enumerate(self.decoder):
            y, before = decode(y, skips.pop(), lengths.pop())
            if index >= parting:
                decode_t = self.tdecoder[index - parting]
                if decode_t.empty:  # the branches part: the wave goes on from the merged branch
                    yt, _ = decode_t(before, None, lengths_t.pop())
                else:
                    yt, _ = decode_t(yt, skips_t.pop(), lengths_t.pop())
        assert y is not None and yt is not None, "both branches have levels"
        return y, yt

    def bottleneck(self, x: Tensor, xt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Between the encoders and the decoders: [B, C, F, N] and [B, C, 1, T] -> what the decoders start from.

        None stands for zeros; then the skips carry everything.
        """
        raise NotImplementedError

    def select(self, sources: Sequence[str]) -> HybridUNet:
        """See Separator. Only the last layers know the sources: their convolutions are narrowed."""
        positions = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        if self.config.norm_starts > 0:
            for decoder in (narrowed.decoder, narrowed.tdecoder):
                size = decoder[-1].chout // self.computed  # channels of one source, which adjoin
                decoder[-1].narrow([size * p + c for p in positions for c in range(size)])
            narrowed.computed = len(positions)
        else:  # a norm after the last convolution needs all sources for its statistics
            narrowed.picked = [self.picked[p] if self.picked else p for p in positions]
        return narrowed
