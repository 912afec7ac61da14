"""HTDemucs (Demucs v4): both U-Nets of the hybrid networks with a transformer across them at the bottom.

Rouard, Massa, Défossez: Hybrid Transformers for Music Source Separation (2023). The published networks have
four levels, so the branches never merge: they exchange information in the transformer.

    spectrogram  4 x F x N  -> 4 levels ->  C x F/256 x N    one token for each bin and frame
    wave         2 x T      -> 4 levels ->  C x T/256        one token for each step

Attention is dense in all published weights; Sparse HT Demucs (t_sparse_self_attn, t_auto_sparsity) has to be
trained from scratch, or from dense weights, which fit it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment
from sepcli.models.demucs.hybrid import HybridUNet, freeze_lists, refuse, segment_samples
from sepcli.models.demucs.sparse import SparseWeighing, Sparsity
from sepcli.models.demucs.transformer import CrossTransformer
from sepcli.nn.stft import demucs_frames

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class HTDemucsConfig:
    """The original constructor's arguments with its defaults."""

    sources: Sequence[str]  # stem names, in output order
    audio_channels: int = 2
    channels: int = 48  # of the first level
    channels_time: int | None = None  # of the time branch's first level, if another
    growth: float = 2  # of the channels from level to level
    nfft: int = 4096  # samples of an STFT window; hop = nfft / 4
    wiener_iters: int = 0  # without cac: 0 = phase of the mix, negative = damped; see spectral.py
    end_iters: int = 0  # the same
    wiener_residual: bool = False  # no effect without iterations
    cac: bool = True  # complex numbers as channels, in and out; else magnitudes
    depth: int = 4  # levels
    rewrite: bool = True  # a second convolution and GLU in each layer
    multi_freqs: Sequence[float] | None = None  # edges of bands with weights of their own, fractions of F
    multi_freqs_depth: int = 3  # outermost levels that have bands
    freq_emb: float = 0.2  # weight of the frequency embedding; 0 = none
    emb_scale: float = 10  # its learning rate's factor
    emb_smooth: bool = True  # its initial values change slowly over F
    kernel_size: int = 8
    time_stride: int = 2  # of levels below F = 1
    stride: int = 4
    context: int = 1  # neighbours on each side in the decoders' rewrite
    context_enc: int = 0  # the same in the encoders
    norm_starts: int = 4  # first level with norms
    norm_groups: int = 4
    dconv_mode: int = 1  # DConv in encoders 1, decoders 2, both 3
    dconv_depth: int = 2  # branches; negative: without dilation
    dconv_comp: float = 8  # hidden channels = channels / dconv_comp
    dconv_init: float = 1e-3  # initial LayerScale
    bottom_channels: int = 0  # of the transformer; 0 = those of the last level
    t_layers: int = 5  # in each branch; 0 = no transformer
    t_emb: str = "sin"  # positions of time tokens: sin, cape or scaled (learned)
    t_hidden_scale: float = 4.0  # feed-forward channels / channels
    t_heads: int = 8
    t_dropout: float = 0.0
    t_max_positions: int = 10000  # with t_emb = scaled
    t_norm_in: bool = True  # LayerNorm of the tokens before positions are added
    t_norm_in_group: int = False  # or a norm over all tokens, with so many groups
    t_group_norm: int = False  # norms in the layers over all tokens, with so many groups
    t_norm_first: bool = True  # norms before the blocks
    t_norm_out: bool = True  # with t_norm_first: a norm over all tokens after each layer
    t_max_period: float = 10000.0  # slowest sine: 2 pi times so many steps
    t_weight_decay: float = 0.0  # training only
    t_lr: float | None = None  # training only
    t_layer_scale: bool = True
    t_gelu: bool = True  # else ReLU
    t_weight_pos_embed: float = 1.0  # factor of the positions
    t_sin_random_shift: int = 0  # training only: largest random shift of the positions
    t_cape_mean_normalize: bool = True  # with t_emb = cape: centred positions
    t_cape_augment: bool = True  # with t_emb = cape, training only
    t_cape_glob_loc_scale: Sequence[float] = (5000.0, 1.0, 1.4)  # with t_emb = cape, training only
    t_sparse_self_attn: bool = False  # sparse attention within a branch: sparse.py
    t_sparse_cross_attn: bool = False  # sparse attention across the branches
    t_mask_type: str = "diag"  # fixed pairs: diag, jmask, random, global, or several joined by _
    t_mask_random_seed: int = 42  # of random masks; of the hashes outside training
    t_sparse_attn_window: int = 500  # tokens to either side (diag)
    t_global_window: int = 100  # first tokens, which read all and are read by all (global)
    t_sparsity: float = 0.95  # share of pairs that is left out (hashed, random)
    t_auto_sparsity: bool = False  # pairs by hashing, instead of fixed ones
    t_cross_first: bool = False  # begin with attention across the branches
    rescale: float = 0.1  # of initial convolution weights
    samplerate: int = 44100  # Hz
    segment: Fraction | float = 10  # seconds
    use_train_segment: bool = True  # every call takes exactly `segment`

    def __post_init__(self) -> None:
        freeze_lists(self)


class HTDemucs(HybridUNet):
    """[B, C, T] -> [B, S, C, T]; a shorter mix is extended with silence to the segment and cropped again."""

    def __init__(self, config: HTDemucsConfig):
        check_transformer(config)
        super().__init__(config)
        self.segment = Segment(
            samples=segment_samples(config.segment, config.samplerate),
            exact=config.use_train_segment,
            tail="context" if config.use_train_segment else "short",
        )
        # Kept by `prepare`: the positions of the tokens, after the sizes, device and type that they fit.
        self.prepared_positions: tuple[tuple[Any, ...], tuple[Tensor, Tensor]] | None = None

        channels = int(config.channels * config.growth ** (config.depth - 1))
        if config.bottom_channels:
            self.channel_upsampler = nn.Conv1d(channels, config.bottom_channels, 1)
            self.channel_downsampler = nn.Conv1d(config.bottom_channels, channels, 1)
            self.channel_upsampler_t = nn.Conv1d(channels, config.bottom_channels, 1)
            self.channel_downsampler_t = nn.Conv1d(config.bottom_channels, channels, 1)
        self.crosstransformer = None
        if config.t_layers:
            shift, jitter, stretch = config.t_cape_glob_loc_scale
            self.crosstransformer = CrossTransformer(
                config.bottom_channels or channels,
                layers=config.t_layers,
                heads=config.t_heads,
                hidden_scale=config.t_hidden_scale,
                cross_first=config.t_cross_first,
                dropout=config.t_dropout,
                gelu=config.t_gelu,
                norm_in=config.t_norm_in,
                norm_in_group=int(config.t_norm_in_group),
                group_norm=int(config.t_group_norm),
                norm_first=config.t_norm_first,
                norm_out=config.t_norm_out,
                layer_scale=config.t_layer_scale,
                emb=config.t_emb,
                max_positions=config.t_max_positions,
                max_period=config.t_max_period,
                weight_pos_embed=config.t_weight_pos_embed,
                sin_random_shift=config.t_sin_random_shift,
                cape_mean_normalize=config.t_cape_mean_normalize,
                cape_augment=config.t_cape_augment,
                cape_glob_loc_scale=(shift, jitter, stretch),
                sparse_self=sparsity(config) if config.t_sparse_self_attn else None,
                sparse_cross=sparsity(config) if config.t_sparse_cross_attn else None,
            )

    @property
    def least_samples(self) -> int:
        """What a shorter call is extended to with silence."""
        return self.segment.samples or 0 if self.segment.exact else 0

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator. Keeps the positions of the transformer's tokens too."""
        super().prepare(samples, device, dtype)
        if self.crosstransformer is None:
            return
        config = self.config
        steps = max(samples, self.least_samples)
        frames, bins = demucs_frames(steps, config.nfft), config.nfft // 2
        for _ in range(config.depth):
            steps = math.ceil(steps / config.stride)
            bins = 1 if bins <= config.kernel_size else bins // config.stride
        like = torch.empty(0, device=device, dtype=dtype)
        with torch.inference_mode(False), torch.no_grad():
            positions = self.crosstransformer.positions(bins, frames, steps, like)
        self.prepared_positions = ((bins, frames, steps, like.device, dtype), positions)

    def notices(self, device: torch.device) -> Sequence[str]:
        """See Separator: where sparse attention is not computed by flex_attention, and why."""
        for module in self.modules():
            if isinstance(module, SparseWeighing):
                return module.notices(device)  # all of them are computed in one way
        return ()

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32."""
        samples = mix.shape[-1]
        if not self.training and samples < self.least_samples:
            mix = F.pad(mix, (0, self.least_samples - samples))
        return super().forward(mix)[..., :samples]

    def bottleneck(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Pass both branches through the transformer: [B, C, F, N] and [B, C, 1, T] -> the same shapes.

        Afterwards every token has seen all others of both branches.
        """
        if self.crosstransformer is None:
            return x, xt
        batch, _, bins, frames = x.shape
        x, xt = x.permute(0, 3, 2, 1).flatten(1, 2), xt.permute(0, 3, 2, 1).flatten(1, 2)  # [B, tokens, C]
        if self.config.bottom_channels:
            x, xt = pointwise(self.channel_upsampler, x), pointwise(self.channel_upsampler_t, xt)
        positions = self._positions(self.crosstransformer, bins, frames, xt.shape[1], x)
        x, xt = self.crosstransformer(x, xt, positions)
        if self.config.bottom_channels:
            x, xt = pointwise(self.channel_downsampler, x), pointwise(self.channel_downsampler_t, xt)
        return x.view(batch, frames, bins, -1).permute(0, 3, 2, 1), xt.transpose(1, 2)[:, :, None]

    def _positions(
        self, transformer: CrossTransformer, bins: int, frames: int, steps: int, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The result of `transformer.positions`, or the one that `prepare` has kept, where that is valid."""
        if not self.training and self.prepared_positions is not None:
            valid_for, positions = self.prepared_positions
            if valid_for == (bins, frames, steps, like.device, like.dtype):
                return positions
        return transformer.positions(bins, frames, steps, like)


def pointwise(conv: nn.Conv1d, tokens: Tensor) -> Tensor:
    """Apply a convolution of one step to [B, tokens, C] -> [B, tokens, C']."""
    return F.linear(tokens, conv.weight[:, :, 0], conv.bias)


def sparsity(config: HTDemucsConfig) -> Sparsity:
    """The config's fields on sparse attention as one value; for a config that asks for some."""
    return Sparsity(
        hashed=config.t_auto_sparsity,
        dropped=config.t_sparsity,
        masks=tuple(config.t_mask_type.split("_")),
        window=config.t_sparse_attn_window,
        leading=config.t_global_window,
        seed=config.t_mask_random_seed,
    )


def check_transformer(config: HTDemucsConfig) -> None:
    """ModelError where no HTDemucs here can follow the config. CrossTransformer and Sparsity check the rest."""
    if config.t_auto_sparsity and not (config.t_sparse_self_attn or config.t_sparse_cross_attn):
        raise refuse("t_auto_sparsity says how attention is sparse, but neither t_sparse_self_attn nor "
                     "t_sparse_cross_attn says which.")  # fmt: skip
    if not config.t_layers:
        return
    bins = config.nfft // 2
    for _ in range(config.depth - 1):
        if bins <= config.kernel_size:
            raise refuse(f"depth={config.depth} goes below one frequency bin, where HTDemucs has no tokens.")
        bins //= config.stride
    if config.channels_time not in (None, config.channels):
        raise refuse("HTDemucs needs as many channels in the time branch as in the spectral one.")
