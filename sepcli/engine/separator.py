"""What a separator is: the one contract between models and everything that runs them.

Knows nothing of any family, file or device. The pipeline sees only what stands here, so a model that needs
something special declares it as a property instead of being asked for by name.

    [B, C, T] mix  ->  Separator  ->  [B, S, C, T] stems          B batch, S sources, C channels, T samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class Segment:
    """How much audio one call takes, in samples at the model's rate.

    A model of `exact` calls never sees more than `samples`; the pipeline gives a short last chunk real
    neighbouring audio on both sides ("context") or runs it at its own length ("short").
    """

    samples: int | None  # a whole call, margins included; None = any length
    multiple: int = 1  # shorter calls are multiples of this
    exact: bool = False  # always `samples`
    margin: int = 0  # each end: real neighbouring audio, computed, then discarded
    tail: str = "context"  # a short last chunk is centred in real audio; or "short": run as it is
    valid_length: Callable[[int], int] | None = None  # samples to feed for n wanted

    def __post_init__(self) -> None:
        assert self.tail in ("context", "short"), self.tail
        assert self.samples is None or self.samples > 2 * self.margin


class Separator(nn.Module):
    """A network that takes a mix apart.

    Laws (tests/contracts.py): as many samples out as in; `forward` in eval stores nothing; a batch of two
    equals two batches of one; `select(all)` equals the whole and `select([one])` that stem of the whole, to
    1e-5 of the peak in float32 (1e-3 for samplers of more than 20 calls). `forward` takes and returns
    float32 whatever precision it computes in.
    """

    sources: tuple[str, ...]  # stem names, in output order
    samplerate: int  # Hz
    channels: int  # 1 mono, 2 stereo
    segment: Segment
    normalize: bool = False  # standardise the whole track before chunking (a track-level step)
    half: bool = False  # may run in reduced precision: set only where measured
    options: Any = None  # the Options that its Arch names, where there are any: settings of a separation

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """Move to `device`, compute in `dtype`, and store what depends on the length of a call.

        samples: the length T of the calls to come. Called once before the first chunk, and the only place
        where constants (windows, positional embeddings, folded weights) are stored.
        """
        self.to(device)
        self.eval()

    def used(self) -> Mapping[str, Any]:
        """The options this model runs with, those that follow from others filled in: for the record."""
        return {}

    def notices(self, device: torch.device) -> Sequence[str]:
        """Sentences the user should see before this model runs on `device`: what works another way there."""
        return ()

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 at `samplerate` -> [B, S, C, T] float32."""
        raise NotImplementedError

    def select(self, sources: Sequence[str]) -> Separator:
        """This model narrowed to `sources`, in that order: only the work that those need.

        UsageError for a stem the model does not have.
        """
        raise NotImplementedError


# --- what some separators can do besides: classes that their networks derive from ---


class Queryable(Separator):
    """A separator that also makes a stem from a recorded example of its sound, a query.

    Its own `sources` are those it knows by name; it may have none, and then makes nothing before it is bound.
    """

    min_query: float  # seconds; a shorter example says too little

    def bind(self, queries: Mapping[str, Tensor]) -> Separator:
        """This model with the queries' stems beside its own: an ordinary Separator, to be narrowed by `select`.

        queries: {stem name: [C, T] float32 at the model's rate and on its device}; not silent, and of any
        length from `min_query` on. The new `sources` are merged as a dict is: the model's own in their order,
        then the new names; a query with the name of a source takes its place. The model itself stays as it is,
        and a stem depends on no other query than its own.
        """
        raise NotImplementedError


class Inspectable(Separator):
    """A separator that shows to which of its latent sources it attends: for each stem, over time.

    It takes calls of `segment.samples`, and needs no standardised track.
    """

    attention_hop: int  # samples from one frame to the next
    attention_levels: int  # places that attend: 1 is the last before the output, and the finest

    def attention_maps(self, mix: Tensor, level: int = 1) -> Tensor:
        """[B, C, T] float32 -> [B, S, N, L]: of each stem, weights of L latent sources whose sum is 1.

        Frame n is centred on sample n * attention_hop, N = T // attention_hop + 1. A level with fewer frames
        gives each of its own several times.
        """
        raise NotImplementedError


class Coder(Separator):
    """A separator of one stem, which it turns into latents and back. Latents can be changed in between.

    B items, C channels, T samples; N latents of D values, one for every `hop` samples begun; Q codebooks.
    """

    hop: int  # samples of a latent
    codebooks: int  # of its quantiser; 0 where it has none
    codebook_size: int  # codes are 0 to below that

    def encode(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T] -> latents [B, D, N], and the level that they do not hold, [B, 1, 1]."""
        raise NotImplementedError

    def decode(self, z: Tensor, scale: Tensor, samples: int) -> Tensor:
        """Latents [B, D, N] and levels [B, 1, 1] -> [B, C, T = samples]."""
        raise NotImplementedError

    def quantize(self, z: Tensor, bandwidth: float | None = None) -> Tensor:
        """Latents -> codes [Q, B, N], int64, of so many kbit/s; None: of all codebooks. UsageError without."""
        raise NotImplementedError

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [Q, B, N] -> latents [B, D, N]."""
        raise NotImplementedError


def source_indices(model_sources: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each wanted stem stands among the model's; UsageError names the stems there are."""
    missing = [name for name in wanted if name not in model_sources]
    if missing:
        raise UsageError(
            f"The model has no stem {', '.join(repr(name) for name in missing)}; "
            f"it has {', '.join(model_sources) or 'none of its own'}.",
            remedy="Choose among these, or find models with `sepcli models list --target STEM`.",
            code="unknown_stem",
        )
    return [list(model_sources).index(name) for name in wanted]
