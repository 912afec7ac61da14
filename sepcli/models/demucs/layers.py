"""The layers that the networks of the Demucs family are stacked from.

Knows nothing of whole networks, of spectrograms or of audio: tensors in, tensors out. Module names and their
order are those of the published checkpoints (quantised ones store tensors by order alone).

An encoder layer divides one axis by its stride (frequency F in the spectral branch, samples T in the time
branch), its decoder layer multiplies it back; between them DConv refines along time at full channel count.

    encoder   conv -> norm1 -> GELU -> DConv -> rewrite 1x1 -> norm2 -> GLU
    decoder   + skip -> rewrite 3x3 -> norm1 -> GLU -> DConv -> transposed conv -> norm2 -> crop -> GELU

Axes: B batch, C channels, F frequency bins, T time steps (frames or samples). [B, C, F, T] or [B, C, T].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class LayerScale(nn.Module):
    """One learned factor a channel, small at first, so that a new branch starts as almost nothing."""

    def __init__(self, channels: int, init: float, channel_last: bool = False):
        super().__init__()
        self.channel_last = channel_last
        self.scale = nn.Parameter(torch.full((channels,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T], or [B, T, C] where `channel_last`."""
        return x * (self.scale if self.channel_last else self.scale[:, None])


class BLSTM(nn.Module):
    """Bidirectional LSTM along time with as many channels out as in.

    Above `max_steps` time steps the LSTM runs on frames of that many, each half a frame after the last one,
    and only the centre of a frame is kept, where both directions have seen context:

        frame 0   |======|--|              = kept
        frame 1       |--|====|--|
        frame 2            |--|====|--|
    """

    def __init__(self, channels: int, layers: int = 1, max_steps: int | None = None, skip: bool = False):
        super().__init__()
        assert max_steps is None or max_steps % 4 == 0
        self.max_steps = max_steps
        self.skip = skip
        self.lstm = nn.LSTM(channels, channels, num_layers=layers, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        steps = x.shape[-1]
        if self.max_steps is None or steps <= self.max_steps:
            y = self._run(x)
        else:
            y = self._run_framed(x, self.max_steps)
        return x + y if self.skip else y

    def _run(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.permute(2, 0, 1))
        return self.linear(y).permute(1, 2, 0)

    def _run_framed(self, x: Tensor, width: int) -> Tensor:
        batch, channels, steps = x.shape
        stride, margin = width // 2, width // 4
        count = math.ceil(steps / stride)
        x = F.pad(x, (0, (count - 1) * stride + width - steps))
        frames = x.unfold(-1, width, stride).transpose(1, 2)  # [B, frames, C, width]
        frames = self._run(frames.reshape(batch * count, channels, width))
        frames = frames.view(batch, count, channels, width)
        # Centres are `stride` long and adjoin: only the very first margin has to be added to them.
        centres = frames[..., margin : margin + stride].transpose(1, 2).reshape(batch, channels, -1)
        return torch.cat([frames[:, 0, :, :margin], centres], dim=-1)[..., :steps]


class LocalState(nn.Module):
    """Attention with learned decay in place of positions: each query fades keys with their distance.

    A query q at step s weighs the key at t by   q·k / sqrt(C/H) - |t - s| · slope(q),
    slope = sum over d = 1..D of d · sigmoid(decay_d(q)) / (2 sqrt(D)); never itself (its weight is e^-100).
    """

    def __init__(self, channels: int, heads: int = 4, decays: int = 4):
        super().__init__()
        assert channels % heads == 0, (channels, heads)
        self.heads = heads
        self.decays = decays
        self.content = nn.Conv1d(channels, channels, 1)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.query_decay = nn.Conv1d(channels, heads * decays, 1)
        with torch.no_grad():  # sigmoid near zero: the widest window at first
            self.query_decay.weight *= 0.01
            self.query_decay.bias.fill_(-2)
        self.proj = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        batch, channels, steps = x.shape
        queries, keys, content, decays = (
            conv(x).view(batch, self.heads, -1, steps)
            for conv in (self.query, self.key, self.content, self.query_decay)
        )
        # Distances and slopes in float32: a reduced type can't count the steps of a long segment.
        rate = torch.arange(1, self.decays + 1, device=x.device, dtype=torch.float32)
        rate = rate / (2 * math.sqrt(self.decays))
        slope = torch.einsum("d,bhdt->bht", rate, torch.sigmoid(decays.float()))
        step = torch.arange(steps, device=x.device, dtype=torch.float32)
        distance = (step[:, None] - step).abs()

        scores = (queries.transpose(-1, -2) @ keys).float() / math.sqrt(keys.shape[2])  # [B, H, query, key]
        scores = scores - slope[..., None] * distance
        scores = scores.masked_fill(torch.eye(steps, device=x.device, dtype=torch.bool), -100.0)
        weights = torch.softmax(scores, dim=-1).to(x.dtype)
        y = content @ weights.transpose(-1, -2)
        return x + self.proj(y.reshape(batch, channels, steps))


class DConv(nn.Module):
    """Residual branches of dilated convolutions along time, on `1/compress` of the channels.

    Published names are `layers.<branch>.<position>`; GroupNorm here has one group whatever the network's
    norms are. A negative depth means as many branches without dilation.
    """

    def __init__(
        self,
        channels: int,
        compress: float = 4,
        depth: int = 2,
        init: float = 1e-4,
        attn: bool = False,
        lstm: bool = False,
    ):
        super().__init__()
        hidden = int(channels / compress)
        self.layers = nn.ModuleList()
        for branch in range(abs(depth)):
            dilation = 2**branch if depth > 0 else 1
            self.layers.append(
                nn.Sequential(
                    nn.Conv1d(channels, hidden, 3, dilation=dilation, padding=dilation),
                    nn.GroupNorm(1, hidden),
                    nn.GELU(),
                    *([BLSTM(hidden, layers=2, max_steps=200, skip=True)] if lstm else []),
                    *([LocalState(hidden)] if attn else []),
                    nn.Conv1d(hidden, 2 * channels, 1),
                    nn.GroupNorm(1, 2 * channels),
                    nn.GLU(dim=1),
                    LayerScale(channels, init),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        for branch in self.layers:
            x = x + branch(x)
        return x


class ScaledEmbedding(nn.Module):
    """A table whose weights are stored 1/scale as large, which multiplies its learning rate by scale.

    smooth: neighbouring rows start out alike (a random walk, divided by the growth of its deviation).
    """

    def __init__(self, rows: int, channels: int, scale: float, smooth: bool = False):
        super().__init__()
        self.scale = scale
        self.embedding = nn.Embedding(rows, channels)
        with torch.no_grad():
            weight = self.embedding.weight
            if smooth:
                steps = torch.arange(1, rows + 1, device=weight.device)
                weight.copy_(weight.cumsum(0) / steps.sqrt()[:, None])
            weight /= scale

    @property
    def weight(self) -> Tensor:
        """[rows, C]."""
        return self.embedding.weight * self.scale


def group_norm(groups: int, channels: int) -> nn.Module:
    """GroupNorm, or nothing for 0 groups."""
    return nn.GroupNorm(groups, channels) if groups else nn.Identity()


def along_time(dconv: nn.Module, x: Tensor) -> Tensor:
    """DConv on [B, C, T], or on every bin of [B, C, F, T] by itself."""
    if x.dim() == 3:
        return dconv(x)
    batch, channels, bins, steps = x.shape
    y = dconv(x.transpose(1, 2).reshape(batch * bins, channels, steps))
    return y.view(batch, bins, channels, steps).transpose(1, 2)


class EncoderLayer(nn.Module):
    """One level down: in the spectral branch over F (`freq`), else over T.

    empty: the convolution alone (the time branch's last level, whose result is injected into the spectral
    branch). pad: keep F (or T) / stride exactly; without it one window covers all remaining bins.
    dconv: keyword arguments of DConv, or None for no DConv.
    """

    def __init__(
        self,
        chin: int,
        chout: int,
        kernel_size: int,
        stride: int,
        *,
        freq: bool,
        pad: bool = True,
        empty: bool = False,
        norm_groups: int = 0,
        rewrite: bool = True,
        context: int = 0,
        dconv: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.freq = freq
        self.empty = empty
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = kernel_size // 4 if pad else 0
        conv = nn.Conv2d if freq else nn.Conv1d
        if freq:
            self.conv = conv(chin, chout, (kernel_size, 1), (stride, 1), (self.padding, 0))
        else:
            self.conv = conv(chin, chout, kernel_size, stride, self.padding)
        if empty:
            return
        self.norm1 = group_norm(norm_groups, chout)
        self.rewrite = conv(chout, 2 * chout, 1 + 2 * context, 1, context) if rewrite else None
        if rewrite:
            self.norm2 = group_norm(norm_groups, 2 * chout)
        self.dconv = DConv(chout, **dconv) if dconv is not None else None

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[B, C, F, T] (or [B, C, T]) -> the same with the axis divided; inject [B, C, T] joins at F = 1."""
        if not self.freq:
            if x.dim() == 4:  # the first level after the last bin: F = 1
                x = x.flatten(1, 2)
            if x.shape[-1] % self.stride:
                x = F.pad(x, (0, self.stride - x.shape[-1] % self.stride))
        y = self.conv(x)
        if self.empty:
            return y
        if inject is not None:
            y = y + (inject[:, :, None] if y.dim() == 4 else inject)
        y = F.gelu(self.norm1(y))
        if self.dconv is not None:
            y = along_time(self.dconv, y)
        if self.rewrite is not None:
            y = F.glu(self.norm2(self.rewrite(y)), dim=1)
        return y


class DecoderLayer(nn.Module):
    """One level up; see EncoderLayer, whose size it undoes.

    last: no GELU, the output is the result. context_freq: the rewrite sees neighbouring bins too.
    """

    def __init__(
        self,
        chin: int,
        chout: int,
        kernel_size: int,
        stride: int,
        *,
        freq: bool,
        last: bool = False,
        pad: bool = True,
        empty: bool = False,
        norm_groups: int = 0,
        rewrite: bool = True,
        context: int = 1,
        context_freq: bool = True,
        dconv: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.freq = freq
        self.chout = chout
        self.last = last
        self.empty = empty
        self.kernel_size = kernel_size
        self.stride = stride
        # A transposed convolution crops by itself, and need not compute what is cropped; but a norm between
        # the two takes its statistics over the uncropped result.
        padding = kernel_size // 4 if pad else 0
        self.crop = padding if norm_groups else 0
        padding -= self.crop
        if freq:
            self.conv_tr = nn.ConvTranspose2d(chin, chout, (kernel_size, 1), (stride, 1), (padding, 0))
        else:
            self.conv_tr = nn.ConvTranspose1d(chin, chout, kernel_size, stride, padding)
        self.norm2 = group_norm(norm_groups, chout)
        if empty:
            return
        self.rewrite = None
        if rewrite:
            size = 1 + 2 * context
            if not freq:
                self.rewrite = nn.Conv1d(chin, 2 * chin, size, 1, context)
            elif context_freq:
                self.rewrite = nn.Conv2d(chin, 2 * chin, size, 1, context)
            else:
                self.rewrite = nn.Conv2d(chin, 2 * chin, (1, size), 1, (0, context))
            self.norm1 = group_norm(norm_groups, 2 * chin)
        self.dconv = DConv(chin, **dconv) if dconv is not None else None

    def forward(self, x: Tensor | None, skip: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """x [B, C, F, T] or [B, C, T] (None: zeros) -> (the level above, what the convolution was given).

        length: time steps wanted in the time branch; the spectral branch keeps its T.
        """
        y = self.refine(x, skip)
        z = self.norm2(self.conv_tr(y))
        if not self.freq:
            z = z[..., self.crop : self.crop + length]
        elif self.crop:
            z = z[..., self.crop : -self.crop, :]
        return z if self.last else F.gelu(z), y

    def refine(self, x: Tensor | None, skip: Tensor | None) -> Tensor:
        """Everything before the transposed convolution."""
        if self.empty:
            assert x is not None and skip is None
            return x
        assert skip is not None
        # `skip +`: the sum takes the skip's memory order, which is the convolution's, not that of tokens.
        # reshape: above the merged levels x is [B, C, T] and its skip [B, C, 1, T].
        y = skip if x is None else skip + x.reshape(skip.shape)
        if self.rewrite is not None:
            y = F.glu(self.norm1(self.rewrite(y)), dim=1)
        if self.dconv is not None:
            y = along_time(self.dconv, y)
        return y

    def narrow(self, channels: Sequence[int]) -> None:
        """Keep only these output channels. The layer must have no norm2, which mixes channels."""
        assert isinstance(self.norm2, nn.Identity)
        keep = torch.as_tensor(channels, device=self.conv_tr.weight.device)
        self.conv_tr.weight = nn.Parameter(self.conv_tr.weight.detach()[:, keep])
        self.conv_tr.bias = nn.Parameter(self.conv_tr.bias.detach()[keep])
        self.conv_tr.out_channels = self.chout = len(channels)


class MultiEncoder(nn.Module):
    """A spectral encoder layer with weights of its own in every frequency band.

    Equal weights in all bands would make it the plain layer: bands are cut between windows of the output,
    and each is given the input rows that its windows reach, zero padding only at the ends of the spectrum.
    """

    def __init__(self, ratios: Sequence[float], **layer: Any):
        super().__init__()
        self.ratios = (*ratios, 1)  # upper edge of each band, as a fraction of F
        self.layers = nn.ModuleList(EncoderLayer(**layer) for _ in self.ratios)
        self.kernel_size, self.stride = layer["kernel_size"], layer["stride"]
        self.padding = self.layers[0].padding
        for band in self.layers:
            band.conv.padding = (0, 0)

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[B, C, F, T] -> [B, C, F / stride, T]."""
        assert inject is None
        bins = x.shape[2]
        outs, start = [], -self.padding  # first input row of the next window; negative rows are zeros
        for ratio, layer in zip(self.ratios, self.layers, strict=True):
            if ratio == 1:
                end = bins + self.padding
            else:
                windows = round((round(bins * ratio) - start - self.kernel_size) / self.stride + 1)
                end = start + (windows - 1) * self.stride + self.kernel_size
            band = x[:, :, max(start, 0) : end]
            outs.append(layer(F.pad(band, (0, 0, max(-start, 0), max(end - bins, 0)))))
            start = end - self.kernel_size + self.stride
        return torch.cat(outs, dim=2)


class MultiDecoder(nn.Module):
    """A spectral decoder layer with weights of its own in every frequency band.

    The transposed convolutions of two neighbouring bands overlap by kernel - stride rows, where they are
    added as the plain layer would add its own windows; the bias must then count only once.
    """

    def __init__(self, ratios: Sequence[float], **layer: Any):
        super().__init__()
        self.ratios = (*ratios, 1)
        self.layers = nn.ModuleList(DecoderLayer(**layer) for _ in self.ratios)
        self.chout = layer["chout"]
        self.last = layer.get("last", False)
        self.stride = layer["stride"]
        self.padding = layer["kernel_size"] // 4
        assert layer["kernel_size"] == 2 * self.stride == 4 * self.padding
        for band in self.layers:
            band.conv_tr.padding = (0, 0)

    def forward(self, x: Tensor | None, skip: Tensor, length: int) -> tuple[Tensor, None]:
        """[B, C, F, T] -> [B, C, F * stride, T]."""
        bins = skip.shape[2]
        outs: list[Tensor] = []
        start = 0
        for ratio, layer in zip(self.ratios, self.layers, strict=True):
            end = round(bins * ratio)
            rows = slice(start, end)
            out = layer.conv_tr(layer.refine(None if x is None else x[:, :, rows], skip[:, :, rows]))
            if outs:
                shared = outs[-1][:, :, -self.stride :] + out[:, :, : self.stride]
                shared = shared - layer.conv_tr.bias[:, None, None]
                outs[-1] = outs[-1][:, :, : -self.stride]
                outs += [shared, out[:, :, self.stride :]]
            else:
                outs.append(out)
            start = end
        y = torch.cat(outs, dim=2)[:, :, self.padding : -self.padding]
        return y if self.last else F.gelu(y), None

    def narrow(self, channels: Sequence[int]) -> None:
        """Keep only these output channels."""
        for layer in self.layers:
            layer.narrow(channels)
        self.chout = len(channels)


def rescale_convolutions(network: nn.Module, reference: float) -> None:
    """Bring the deviation of fresh convolution weights half way (in log) to `reference`."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
            with torch.no_grad():
                scale = (module.weight.std() / reference) ** 0.5
                module.weight /= scale
                if module.bias is not None:
                    module.bias /= scale


def sharing_copy(network: AnyModule) -> AnyModule:
    """A second module tree over the same weight memory.

    Its parameters are new objects, so that moving, converting or replacing them leaves the first tree as it
    is; until then both read the same memory.
    """
    tensors = [*network.parameters(), *network.buffers()]
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach(), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach()
        for tensor in tensors
    }
    return copy.deepcopy(network, memo)
