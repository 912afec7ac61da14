"""The frame of this family's separators: mono, of whole segments, with a label set that is configuration.

Knows nothing of what happens between mix and stems. Through the engine a call is a whole segment, because the
networks were trained on nothing else, and their norms take statistics over the whole call: a short last chunk
is centred in real audio, and a track shorter than a segment in silence. Only a `segment` in the engine's
settings makes shorter calls. `forward` itself takes any length. It appends silence up to the next length that
the networks take, so that sample n of a padded mix is still sample n of the track (noise is a function of the
position).

Axes: B batch, S sources, T samples, L labels; R = B S rows, the targets of one item side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.models.dicose.unet import Shape, UNet
from sepcli.nn.sharing import sharing_copy

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class DicoseConfig(Shape):
    """The shape of the U-Net and the frame. The defaults are those of the published checkpoints."""

    sources: tuple[str, ...] = ("bass", "drums", "guitar", "piano")  # in the label's order
    samplerate: int = 22050  # Hz
    segment: int = 262144  # samples of a call, 11.9 s; a multiple of `Shape.multiple`


class Framed(Separator):
    """The frame of the file's head; a subclass makes its U-Nets and has `separate`."""

    def __init__(self, config: Any):
        super().__init__()
        config.check()
        if config.segment % config.multiple or config.segment < 1:
            raise ValueError(f"segment is {config.segment}, but must be a multiple of {config.multiple}")
        self.config = config
        # `known` are the sources it was built for, `sources` those that were selected.
        self.sources = self.known = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, 1
        self.segment = Segment(samples=config.segment, multiple=config.multiple)

    def separate(self, mix: Tensor, noise: Noise | None) -> Tensor:
        """The network's own part: [B, 1, T] float32 -> stems [B, S, 1, T] float32.

        T is a multiple of `config.multiple`.
        """
        raise NotImplementedError

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, 1, T] -> [B, S, 1, T]."""
        samples = mix.shape[-1]
        padded = F.pad(mix.float(), (0, -samples % self.config.multiple))
        return self.separate(padded, noise)[..., :samples]

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: only the U-Nets compute in `dtype`."""
        super().prepare(samples, device, dtype)
        for module in self.modules():
            if isinstance(module, UNet):
                module.compute_in(dtype)

    def select(self, sources: Sequence[str]) -> Framed:
        """See Separator: over the same weights; how much work is saved depends on `separate`."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed

    def rows(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """A row for each item and source: mix [B, 1, T] -> [R, 1, T], and one-hot labels [R, L]."""
        index = torch.tensor(source_indices(self.known, self.sources), device=mix.device)
        labels = F.one_hot(index, len(self.known)).float().repeat(len(mix), 1)
        return mix.repeat_interleave(len(self.sources), dim=0), labels

    def stems(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`: [R, 1, T] -> [B, S, 1, T]."""
        return rows.unflatten(0, (-1, len(self.sources)))
