"""The parts of all LaSAFT networks: convolution units, dense blocks, frequency transforms, the gate.

Knows nothing of targets but the numbers they generate. Attributes have the names of the published checkpoints.
(Choi et al. 2020, "Investigating U-Nets with various intermediate blocks"; Choi et al. 2021, "LaSAFT".)

Where it pays, a module computes in two ways: as published, and folded for inference (`fold`). `train()` undoes
the folding, since what is folded does not follow weights that learn.

Axes: B batch, C channels of a layer, N frames, F bins of a level, e embedding. Every `Linear` acts along F.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf

Initialiser = Callable[[Tensor], Tensor]


def activation(name: str) -> nn.Module:
    """The backbone's nonlinearity of that name, in place; ValueError for another name."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    raise ValueError(f"an activation '{name}'; there are relu and leaky_relu")


def initialise(network: nn.Module, fill: Initialiser) -> None:
    """Call `fill` on every parameter of two and more axes; on embeddings, keys and norms of weights too."""
    for parameter in network.parameters():
        if parameter.dim() >= 2:
            fill(parameter)


class Foldable(nn.Module):
    """A module with a faster form for inference. `folded`: the tensors of that form; None while it learns."""

    folded: tuple[Tensor, ...] | None = None

    def fold(self, dtype: torch.dtype) -> None:
        """Make the faster form, in `dtype`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Foldable:
        """See nn.Module; drops the folded form."""
        if mode:
            self.folded = None
        return super().train(mode)


def fold_all(network: nn.Module, dtype: torch.dtype) -> None:
    """Fold every module of a network that can be folded."""
    for module in network.modules():
        if isinstance(module, Foldable):
            module.fold(dtype)


def folded_conv(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """One convolution in place of `conv` and the `norm` behind it: its weight and bias, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None and conv.bias is not None
    gain = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    bias = (conv.bias.detach().double() - norm.running_mean.double()) * gain + norm.bias.detach().double()
    return conv.weight.detach().double() * gain.view(shape), bias


# torch declares the type of `_modules` twice, in Module and narrower in Sequential; nothing of ours touches it.
class Unit(nn.Sequential, Foldable):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Convolution, batch norm, activation: [B, C, N, F] -> [B, C', N', F']."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, act: nn.Module):
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels), act)

    def parts(self) -> tuple[nn.Conv2d | nn.ConvTranspose2d, nn.BatchNorm2d, nn.Module]:
        """The three modules, which have numbers for names."""
        conv, norm, act = self
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d)
        return conv, norm, act

    def fold(self, dtype: torch.dtype) -> None:
        """folded: weight and bias of the convolution with its norm."""
        conv, norm, _ = self.parts()
        self.folded = tuple(tensor.to(dtype) for tensor in folded_conv(conv, norm))

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', N', F']."""
        if self.folded is None:
            return super().forward(input)
        (conv, _, act), (weight, bias) = self.parts(), self.folded
        assert not isinstance(conv.padding, str)
        if isinstance(conv, nn.ConvTranspose2d):
            return act(F.conv_transpose2d(input, weight, bias, stride=conv.stride, padding=conv.padding))
        return act(F.conv2d(input, weight, bias, stride=conv.stride, padding=conv.padding))


class DenseBlock(Foldable):
    """TFC: densely connected 3 x 3 convolutions. Each sees the maps of all before it; the last map comes out.

    Folded it runs the other way round: each new map is convolved once, for all layers that will read it, and
    `pending` is the sum that those layers have received so far. The skip connection of a decoder is then
    convolved only once for all targets (`begin`), which is a quarter of a decoder's convolutions.
    """

    def __init__(self, channels_in: int, channels: int, layers: int, act: str):
        super().__init__()
        self.channels = channels
        self.H = ModuleListOf(
            Unit(nn.Conv2d(channels_in + k * channels, channels, 3, padding=1), activation(act))
            for k in range(layers)
        )

    def fold(self, dtype: torch.dtype) -> None:
        """folded: bias [L*C], weights for the input [L*C, C_in, 3, 3], then for map j [(L-1-j)*C, C, 3, 3]."""
        width, layers = self.channels, [folded_conv(*unit.parts()[:2]) for unit in self.H]
        # Layer k reads [map k-1, ..., map 0, input], the newest first.
        weights = [torch.cat([weight[:, k * width :] for k, (weight, _) in enumerate(layers)])]
        for j in range(len(layers) - 1):
            weights.append(
                torch.cat(
                    [
                        weight[:, (k - 1 - j) * width : (k - j) * width]
                        for k, (weight, _) in enumerate(layers)
                        if k > j
                    ]
                )
            )
        bias = torch.cat([bias for _, bias in layers])
        self.folded = tuple(tensor.to(dtype).contiguous() for tensor in (bias, *weights))

    def begin(self, skip: Tensor) -> Tensor:
        """Convolve the last channels of the input [B, C, N, F] once, for many calls of `forward`."""
        if self.folded is None:
            return skip
        bias, weight = self.folded[:2]
        return F.conv2d(skip, weight[:, -skip.shape[1] :], bias, padding=1)

    def forward(self, x: Tensor, begun: Tensor | None = None) -> Tensor:
        """[B, C_in, N, F] -> [B, C, N, F].

        begun: the result of `begin` for the last channels; x then has only the others.
        """
        if self.folded is not None:
            return self._forward_folded(x, begun, *self.folded)
        if begun is not None:
            x = torch.cat([x, begun], dim=1)
        new = self.H[0](x)
        for unit in self.H[1:]:
            x = torch.cat([new, x], dim=1)
            new = unit(x)
        return new

    def _forward_folded(
        self, x: Tensor, begun: Tensor | None, bias: Tensor, weight: Tensor, *weights: Tensor
    ) -> Tensor:
        if begun is None:
            pending = F.conv2d(x, weight, bias, padding=1)
        else:
            pending = F.conv2d(x, weight[:, : x.shape[1]], padding=1).add_(begun)
        _, _, act = self.H[0].parts()
        for weight in weights:
            new = act(pending[:, : self.channels].contiguous())
            pending = F.conv2d(new, weight, padding=1).add_(pending[:, self.channels :])
        return act(pending)


def bottleneck(channels: int, bins: int, units: int, bins_out: int, act: str) -> nn.Sequential:
    """The layers of a TDF, through fewer units along F: [B, C, N, F] -> [B, C, N, F_out]."""
    return nn.Sequential(
        nn.Linear(bins, units, bias=False),
        nn.BatchNorm2d(channels),
        activation(act),
        nn.Linear(units, bins_out, bias=False),
        nn.BatchNorm2d(channels),
        activation(act),
    )


class FrequencyTransform(nn.Module):
    """TDF: through a bottleneck along F. [B, C, N, F] -> [B, C, N, F]."""

    def __init__(self, channels: int, bins: int, units: int, act: str):
        super().__init__()
        self.tdf = bottleneck(channels, bins, units, bins, act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C, N, F]."""
        return self.tdf(x)


class NormedLinear(nn.Module):
    """A linear layer whose weight rows are g * v / |v|: weight norm, under the names of torch's old one."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        plain = nn.Linear(inputs, outputs)
        self.bias = plain.bias
        self.weight_g = nn.Parameter(plain.weight.detach().norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(plain.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1, eps=0), self.bias)


def generator(embedding: int, outputs: int) -> nn.Sequential:
    """[B, e] -> [B, outputs]: the weights that a target's embedding asks for (v2)."""
    return nn.Sequential(NormedLinear(embedding, embedding), nn.ReLU(), NormedLinear(embedding, outputs))


def gate(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The gate, GPoCM: x * sigmoid(P), P[o] = sum over i of x[i] gamma[i, o] + beta[o], for each frame and bin.

    x: [B, C, N, F]. gamma: [R, C, C]. beta: [R, C]. R is B, or 1 for all items.
    """
    mixed = torch.matmul(gamma.transpose(1, 2), x.flatten(2)).add_(beta[:, :, None])
    return x * mixed.sigmoid_().view_as(x)
