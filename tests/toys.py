"""Small separators of known behaviour: laws of the engine are tested on these, not on networks."""

from __future__ import annotations

import torch
from torch import Tensor

from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Queryable, Segment, Separator, source_indices
from sepcli.engine.settings import Settings


def separate(model, x, block=777, progress=None, **settings):
    """What the engine makes of x [G, C, T], given in blocks: [S, G, C, T]; None for no samples."""
    engine = Engine(model, Settings(**settings), torch.device("cpu"), torch.float32)
    blocks = x.split(block, dim=-1)
    made = list(engine.separate(iter(blocks), engine.measure(blocks), progress))
    return torch.cat(made, dim=-1) if made else None


def unsettled(model):
    """The network in eval mode, with every batch norm off its trivial value."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor += 0.3 * torch.randn_like(tensor)
            module.running_var.uniform_(0.3, 3)
    return model.eval()


class Split(Separator):
    """Source k is the mix times a share; those of SHARES add up to 1."""

    SHARES = {"drums": 0.5, "bass": 0.25, "other": 0.125, "vocals": 0.125}
    ANOTHER = 0.25  # the share of any other stem

    def __init__(
        self,
        sources=tuple(SHARES),
        segment: Segment | None = None,
        *,
        normalize=False,
        samplerate=44100,
        channels=2,
    ):
        super().__init__()
        self.sources = tuple(sources)
        self.samplerate, self.channels, self.normalize = samplerate, channels, normalize
        self.segment = segment or Segment(samples=1000)
        self.calls: list[tuple[int, ...]] = []  # shapes of the mixes seen

    def forward(self, mix: Tensor, *, noise=None) -> Tensor:
        self.calls.append(tuple(mix.shape))
        shares = torch.tensor([self.SHARES.get(name, self.ANOTHER) for name in self.sources], device=mix.device)
        return mix[:, None] * shares[:, None, None]

    def select(self, sources) -> Split:
        source_indices(self.sources, sources)
        narrowed = Split(
            sources, self.segment, normalize=self.normalize, samplerate=self.samplerate, channels=self.channels
        )
        narrowed.whole = self.whole or self.sources
        return narrowed


class Asked(Queryable):
    """Takes queries: their stems are the mix times the example's loudness (root mean square)."""

    min_query = 0.5

    def __init__(self, sources=("drums", "vocals"), shares=None, *, samplerate=44100, channels=2):
        super().__init__()
        self.sources, self.samplerate, self.channels = tuple(sources), samplerate, channels
        self.segment = Segment(samples=22050)
        shares = [Split.SHARES[name] for name in sources] if shares is None else shares
        self.register_buffer("shares", torch.as_tensor(shares, dtype=torch.float32))

    def forward(self, mix: Tensor, *, noise=None) -> Tensor:
        return mix[:, None] * self.shares[:, None, None]

    def select(self, sources) -> Asked:
        rows = source_indices(self.sources, sources)
        return Asked(sources, self.shares[rows], samplerate=self.samplerate, channels=self.channels)

    def bind(self, queries) -> Asked:
        shares = dict(zip(self.sources, self.shares.tolist(), strict=True))
        shares |= {name: audio.square().mean().sqrt().item() for name, audio in queries.items()}
        return Asked(shares, list(shares.values()), samplerate=self.samplerate, channels=self.channels)


class Context(Separator):
    """A nonlinear network that looks around: what comes out at an edge depends on the window."""

    def __init__(self, segment: Segment, sources=("a", "b"), *, channels=2, normalize=True, seed=0):
        super().__init__()
        self.sources, self.samplerate, self.channels = tuple(sources), 1000, channels
        self.segment, self.normalize = segment, normalize
        generator = torch.Generator().manual_seed(seed)
        self.kernel = torch.randn(len(sources) * channels, channels, 31, generator=generator) / 8

    def forward(self, mix: Tensor, *, noise=None) -> Tensor:
        length = mix.shape[-1]
        level = mix.square().mean(dim=(1, 2), keepdim=True)  # depends on the whole window
        out = torch.nn.functional.conv1d(mix, self.kernel, padding=15)
        out = torch.tanh(out / (1 + level)) * torch.linspace(0.5, 1.5, length)  # and on the place in it
        return out.view(len(mix), len(self.sources), self.channels, length)
