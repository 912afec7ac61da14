"""The layers that the networks of the Demucs family are stacked from.

Knows nothing of whole networks, of spectrograms or of audio: tensors in, tensors out. Module names and their
order are those of the published checkpoints (quantised ones store tensors by order alone).

An encoder layer divides one axis by its stride (frequency F in the spectral branch, samples T in the time
branch), its decoder layer multiplies it back; between them DConv refines along time at full channel count.

    encoder   conv -> norm1 -> GELU -> DConv -> rewrite 1x1 -> norm2 -> GLU
    decoder   + skip -> rewrite 3x3 -> norm1 -> GLU -> DConv -> transposed conv -> norm2 -> crop -> GELU

Axes: B batch, C channels, F frequency bins (1 in the time branch), T time steps (frames or samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.demucs.dconv import DConv
from sepcli.nn.modules import ModuleListOf

Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


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
        """The rows as they are added, [rows, C]."""
        return self.embedding.weight * self.scale


def group_norm(groups: int, channels: int) -> nn.Module:
    """GroupNorm, or nothing for 0 groups."""
    return nn.GroupNorm(groups, channels) if groups else nn.Identity()


def convolve(conv: Convolution, x: Tensor) -> Tensor:
    """Apply any convolution of this family, plain or transposed, to [B, C, F, T]; over T alone with F = 1.

    Everything runs as a 2-D convolution, so that tensors can stay in channels-last memory order throughout
    (`prepare` puts the weights in it): the convolutions' own order on CPUs and tensor cores, in which all
    1 x 1 convolutions are plain matrix products.
    """
    weight, stride, padding, dilation = conv.weight, conv.stride, conv.padding, conv.dilation
    assert not isinstance(padding, str), "padding is in numbers here"
    if weight.dim() == 3:
        weight, stride, padding, dilation = weight[:, :, None], (1, *stride), (0, *padding), (1, *dilation)
    if conv.transposed:
        return F.conv_transpose2d(x, weight, conv.bias, stride, padding)
    return F.conv2d(x, weight, conv.bias, stride, padding, dilation)


def keep_outputs(conv: Convolution, channels: Sequence[int]) -> None:
    """Narrow a convolution, plain or transposed, to these of its output channels, in this order."""
    keep, axis = torch.as_tensor(channels, device=conv.weight.device), int(conv.transposed)
    weight, bias = conv.weight, conv.bias
    conv.weight = nn.Parameter(weight.detach().index_select(axis, keep), weight.requires_grad)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach()[keep], bias.requires_grad)
    conv.out_channels = len(channels)


class ToWave(nn.ConvTranspose1d):
    """The transposed convolution at the end of a network of waves: many channels [B, C, T] -> few [B, O, T'].

    On a CPU, and without gradients, it is a matrix product where its kernel is two strides long: of each step
    come two blocks, and each adds to its neighbour's. oneDNN's own is up to 8 times slower there, and before
    the first call of a long one it compiles for 10 to 45 s (docs/log.md).
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, T] -> [B, O, (T - 1) * stride + kernel]."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        if input.device.type != "cpu" or torch.is_grad_enabled() or kernel != 2 * stride:
            return super().forward(input, output_size)
        batch, channels, steps = input.shape
        blocks = self.weight.permute(1, 2, 0).reshape(-1, channels) @ input
        blocks = blocks.view(batch, -1, 2, stride, steps).transpose(-1, -2)
        wave = F.pad(blocks[:, :, 0], (0, 0, 0, 1))  # [B, O, T + 1, stride]
        wave[:, :, 1:] += blocks[:, :, 1]
        if self.bias is not None:
            wave += self.bias[:, None, None]
        return wave.flatten(2)


def channels_last(network: nn.Module) -> None:
    """Put all convolution weights of a network into channels-last memory order."""
    for module in network.modules():
        if isinstance(module, Convolution):
            weight = module.weight.data.movedim(1, -1).contiguous().movedim(-1, 1)
            module.weight.data = weight


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
        self.conv: nn.Conv1d | nn.Conv2d
        if freq:
            self.conv = nn.Conv2d(chin, chout, (kernel_size, 1), (stride, 1), (self.padding, 0))
        else:
            self.conv = nn.Conv1d(chin, chout, kernel_size, stride, self.padding)
        if empty:
            return
        self.norm1 = group_norm(norm_groups, chout)
        conv = nn.Conv2d if freq else nn.Conv1d
        self.rewrite = conv(chout, 2 * chout, 1 + 2 * context, 1, context) if rewrite else None
        if rewrite:
            self.norm2 = group_norm(norm_groups, 2 * chout)
        self.dconv = DConv(chout, **dconv) if dconv is not None else None

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[B, C, F, T] -> the next level, F (or T) divided by the stride.

        inject: [B, C, 1, T] of the time branch, added where F has become 1.
        """
        if not self.freq and x.shape[-1] % self.stride:
            x = F.pad(x, (0, self.stride - x.shape[-1] % self.stride))
        y = convolve(self.conv, x)
        if self.empty:
            return y
        if inject is not None:
            y = y + inject
        y = F.gelu(self.norm1(y))
        if self.dconv is not None:
            y = self.dconv(y)
        if self.rewrite is not None:
            y = F.glu(self.norm2(convolve(self.rewrite, y)), dim=1)
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
        # A transposed convolution crops by itself, and need not compute the cropped rows; but a norm between
        # the two takes its statistics over the uncropped result.
        padding = kernel_size // 4 if pad else 0
        self.crop = padding if norm_groups else 0
        padding -= self.crop
        self.conv_tr: nn.ConvTranspose1d | nn.ConvTranspose2d
        if freq:
            self.conv_tr = nn.ConvTranspose2d(chin, chout, (kernel_size, 1), (stride, 1), (padding, 0))
        else:
            self.conv_tr = nn.ConvTranspose1d(chin, chout, kernel_size, stride, padding)
        self.norm2 = group_norm(norm_groups, chout)
        if empty:
            return
        self.rewrite: nn.Conv1d | nn.Conv2d | None = None
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
        """x [B, C, F, T] (None: zeros) -> the level above, and the input of the transposed convolution.

        skip: the encoder's result at this level. length: time steps wanted in the time branch; the spectral
        branch keeps its T.
        """
        y = self.refine(x, skip)
        z = self.norm2(convolve(self.conv_tr, y))
        if not self.freq:
            z = z[..., self.crop : self.crop + length]
        elif self.crop:
            z = z[..., self.crop : -self.crop, :]
        return z if self.last else F.gelu(z), y

    def refine(self, x: Tensor | None, skip: Tensor | None) -> Tensor:
        """The layer up to its transposed convolution: x (None: zeros) and skip [B, C, F, T] -> [B, C, F, T]."""
        if self.empty:
            assert x is not None and skip is None
            return x
        assert skip is not None
        # `skip +`: the sum takes the skip's memory order, which is the convolution's, not that of tokens.
        y = skip if x is None else skip + x
        if self.rewrite is not None:
            y = F.glu(self.norm1(convolve(self.rewrite, y)), dim=1)
        if self.dconv is not None:
            y = self.dconv(y)
        return y

    def narrow(self, channels: Sequence[int]) -> None:
        """Keep only these output channels. The layer must have no norm2, which mixes channels."""
        assert isinstance(self.norm2, nn.Identity)
        keep_outputs(self.conv_tr, channels)
        self.chout = len(channels)


class MultiEncoder(nn.Module):
    """A spectral encoder layer with weights of its own in every frequency band.

    Equal weights in all bands would make it the plain layer: bands are cut between windows of the output,
    and each is given the input rows that its windows reach, zero padding only at the ends of the spectrum.
    """

    def __init__(self, ratios: Sequence[float], **layer: Any):
        super().__init__()
        self.ratios = (*ratios, 1)  # upper edge of each band, as a fraction of F
        self.layers = ModuleListOf(EncoderLayer(**layer) for _ in self.ratios)
        self.kernel_size, self.stride = layer["kernel_size"], layer["stride"]
        self.padding = self.layers[0].padding
        for band in self.layers:
            band.conv.padding = (0, 0)

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[B, C, F, T] -> [B, C, F / stride, T]; nothing is injected at levels that have bands."""
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
        self.layers = ModuleListOf(DecoderLayer(**layer) for _ in self.ratios)
        self.chout = layer["chout"]
        self.last = layer.get("last", False)
        self.stride = layer["stride"]
        self.padding = layer["kernel_size"] // 4
        assert layer["kernel_size"] == 2 * self.stride == 4 * self.padding
        for band in self.layers:
            band.conv_tr.padding = (0, 0)

    def forward(self, x: Tensor | None, skip: Tensor, length: int) -> tuple[Tensor, None]:
        """x (None: zeros) and skip [B, C, F, T] -> [B, C, F * stride, T]; T is kept whatever `length` is."""
        bins = skip.shape[2]
        outs: list[Tensor] = []
        start = 0
        for ratio, layer in zip(self.ratios, self.layers, strict=True):
            end = round(bins * ratio)
            rows = slice(start, end)
            y = layer.refine(None if x is None else x[:, :, rows], skip[:, :, rows])
            out = convolve(layer.conv_tr, y)
            if outs:
                bias = layer.conv_tr.bias
                assert bias is not None
                shared = outs[-1][:, :, -self.stride :] + out[:, :, : self.stride]
                shared = shared - bias[:, None, None]
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
    """Bring the deviation of fresh convolution weights half way (in log) to `reference`, biases by as much."""
    for module in network.modules():
        if isinstance(module, Convolution):
            with torch.no_grad():
                scale = (module.weight.std() / reference) ** 0.5
                module.weight /= scale
                if module.bias is not None:
                    module.bias /= scale
