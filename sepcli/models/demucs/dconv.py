"""DConv: the residual branches that refine every level of a Demucs network along time.

Knows nothing of levels or of what the channels mean. The same arithmetic stands here twice: as the published
modules say it, and folded (see Folded) for inference, which goes over a level's large tensors far fewer times.

Axes: B batch, C channels, F frequency bins (1 in the time branch), T time steps, H hidden channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf

SLAB_BYTES = 8 << 20  # of a slab's largest intermediate tensor, on a CPU


def slabs(x: Tensor, expansion: int) -> tuple[Tensor, ...]:
    """Cut [B, C, F, T] along F so that `expansion` times a slab stays small; on a GPU it stays whole.

    Computing slab by slab needs a fraction of the memory, most of it in a CPU's cache.
    """
    if x.device.type != "cpu" or not x.numel():
        return (x,)
    bins = SLAB_BYTES * x.shape[2] // (expansion * x.numel() * x.element_size())
    return x.split(max(1, bins), dim=2)


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
        assert self.query_decay.bias is not None
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


class Folded:
    """One plain branch of a DConv with everything folded that can be.

    The branch ends with a 1 x 1 convolution y = W h + b from H to 2C channels, a norm of y over all of its
    channels and steps, a GLU and a LayerScale. The norm's statistics follow from those of h, of which there
    are 16 times fewer values: with m = mean(h) and M = mean(h h^T) over T,

        mean(y) = mean_c(W m + b)         mean(y^2) = mean_c(w_c^T M w_c + 2 b_c w_c^T m + b_c^2)

    With r = 1 / sqrt(var(y) + eps) the normalised, scaled y is one 1 x 1 convolution of [r h, r, mean(y) r],
    so y itself is never normalised in memory. The scale s of the LayerScale goes into the GLU's linear half.
    """

    def __init__(self, branch: nn.Sequential, dtype: torch.dtype):
        conv, norm, _, expand, norm_out, _, scale = branch
        assert isinstance(conv, nn.Conv1d) and isinstance(norm, nn.GroupNorm)
        assert isinstance(expand, nn.Conv1d) and isinstance(norm_out, nn.GroupNorm)
        assert isinstance(scale, LayerScale) and expand.bias is not None
        assert not isinstance(conv.padding, str)
        self.padding, self.dilation = (0, *conv.padding), (1, *conv.dilation)
        self.conv, self.norm = conv, norm
        self.eps = norm_out.eps
        device = conv.weight.device
        weight, bias, factor, gain, shift = (
            parameter.detach().cpu().double()  # float64 only where every device has it
            for parameter in (expand.weight[:, :, 0], expand.bias, scale.scale, norm_out.weight, norm_out.bias)
        )
        halves = torch.cat([factor, torch.ones_like(factor)])
        gain, shift = gain * halves, shift * halves
        columns = [weight * gain[:, None], (bias * gain)[:, None], -gain[:, None]]
        self.expand = torch.cat(columns, dim=1)[:, :, None, None].to(device, dtype)  # [2C, H + 2, 1, 1]
        self.bias = shift.to(device, dtype)
        # What the statistics of y need: means over its 2C channels.
        self.mean_weight, self.mean_bias = weight.mean(0).to(device, torch.float32), float(bias.mean())
        self.gram = (weight.T @ weight / len(weight)).to(device, torch.float32)
        self.cross = (2 * weight.T @ bias / len(weight)).to(device, torch.float32)
        self.square_bias = float(bias.square().mean())

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, F, T] channels-last -> [B, C, F, T], refined."""
        weight, bias = self.conv.weight[:, :, None], self.conv.bias
        hidden = F.conv2d(x, weight, bias, padding=self.padding, dilation=self.dilation)
        rows = hidden.permute(0, 2, 3, 1).float()  # [B, F, T, H]
        batch, bins, steps, width = rows.shape
        # Its first norm is over H and T of each bin: a layer norm of rows of T * H values.
        affine = (self.norm.weight.float().repeat(steps), self.norm.bias.float().repeat(steps))
        flat = F.layer_norm(rows.reshape(batch, bins, -1), (steps * width,), *affine, self.norm.eps)
        rows = F.gelu(flat).view(batch, bins, steps, width)

        mean = rows.mean(dim=2)
        second = rows.transpose(-1, -2) @ rows / steps  # [B, F, H, H]
        mu = mean @ self.mean_weight + self.mean_bias  # [B, F]
        square = (second * self.gram).sum(dim=(-2, -1)) + mean @ self.cross + self.square_bias
        r = torch.rsqrt((square - mu * mu).clamp(min=0) + self.eps)

        augmented = rows.new_empty(batch, bins, steps, width + 2)
        torch.mul(rows, r[:, :, None, None], out=augmented[..., :width])
        augmented[..., width] = r[:, :, None]
        augmented[..., width + 1] = (mu * r)[:, :, None]
        y = F.conv2d(augmented.to(x.dtype).permute(0, 3, 1, 2), self.expand, self.bias)
        return F.glu(y, dim=1).add_(x)


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
        self.foldable = not attn and not lstm
        self.folded: list[Folded] | None = None  # kept by `fold`
        self.layers: ModuleListOf[nn.Sequential] = ModuleListOf()
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

    def fold(self, dtype: torch.dtype) -> None:
        """Make ready for inference in `dtype`; going back to training undoes it."""
        if self.foldable:
            self.folded = [Folded(branch, dtype) for branch in self.layers]

    def train(self, mode: bool = True) -> DConv:
        """See nn.Module. Drops what was folded, which would not follow weights that learn."""
        if mode:
            self.folded = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, T] -> [B, C, F, T], every bin by itself; or [B, C, T] -> [B, C, T]. Folded: in place."""
        if x.dim() == 3:
            return self(x[:, :, None]).squeeze(2)
        if self.folded is not None:
            return self._refine(x, self.folded)
        batch, channels, bins, steps = x.shape
        x = x.transpose(1, 2).reshape(batch * bins, channels, steps)
        for branch in self.layers:
            x = x + branch(x)
        return x.view(batch, bins, channels, steps).transpose(1, 2)

    def _refine(self, x: Tensor, folded: list[Folded]) -> Tensor:
        """The folded branches, a slab of bins at a time, in place: bins do not know of each other."""
        for slab in slabs(x, expansion=2):
            y = slab
            for branch in folded:
                y = branch(y)
            slab.copy_(y)
        return x


def fold_refinements(network: nn.Module, dtype: torch.dtype) -> None:
    """Fold every DConv of a network, for inference in `dtype`."""
    for module in network.modules():
        if isinstance(module, DConv):
            module.fold(dtype)
