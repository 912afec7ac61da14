"""What a separator is: the one contract between models and everything that runs them.

Knows nothing of any family, file or device. The pipeline sees only what is declared here: a model that
needs something special declares it as a property, and nothing ever asks for a model by its name.

    [B, C, T] mix  ->  Separator  ->  [B, S, C, T] stems          B batch, S sources, C channels, T samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from sepcli.errors import UsageError
from sepcli.nn.sharing import sharing_copy
from sepcli.stems import EVERYTHING_ELSE

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class Segment:
    """How much audio one call takes, in samples at the model's rate.

    The last chunk of a track is often shorter. The pipeline adds the real audio around it ("context"), or gives
    it to the model as short as it is ("short").
    """

    samples: int | None  # a whole call, margins included; None = any length
    multiple: int = 1  # shorter calls are multiples of this
    exact: bool = False  # every call has `samples` (or what `valid_length` makes of them), never less
    margin: int = 0  # at each end: real neighbouring audio that is separated too, then discarded
    tail: str = "context"  # a short last chunk is in the middle of real audio; or "short"
    valid_length: Callable[[int], int] | None = None  # n wanted samples -> samples to feed

    def __post_init__(self) -> None:
        assert self.tail in ("context", "short"), self.tail
        assert self.samples is None or self.samples > 2 * self.margin


class Separator(nn.Module):
    """A network that takes a mix apart.

    Laws (tests/contracts.py): as many samples out as in; `forward` in eval stores nothing; a batch of two
    equals two batches of one; `select(all)` equals the whole and `select([one])` equals that stem of the
    whole, to 1e-5 of the peak in float32 (1e-3 for samplers of more than 20 calls). `forward` takes and returns
    float32, in whatever precision it computes.
    """

    sources: tuple[str, ...]  # stem names, in output order
    # Of a narrowed model: the stems that it had before `select`; () = none were left out.
    whole: tuple[str, ...] = ()
    # Stems that it gives too, but to `select` only: each with the stems that are parts of it (stems.chained).
    more: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    samplerate: int  # Hz
    channels: int  # 1 mono, 2 stereo
    segment: Segment
    normalize: bool = False  # standardise the whole track before chunking (a track-level step)
    half: bool = False  # may run in float16 and bfloat16: set only where that was measured
    keeps_silence: bool = False  # nothing but zeros gives nothing but zeros, so such a call need not be made
    draws_noise: bool = False  # what it gives depends on `noise`
    name: str = ""  # for people and file names: what it was loaded by; "" where it was not
    options: Any = None  # the Options of its Arch, if it has any: settings of a separation

    @property
    def offset_stem(self) -> str | None:
        """The stem that a constant offset of the mix belongs to: the one for everything else, or the last.

        For tracks that are standardised (`normalize`): the network never sees their mean. A narrowed model may
        lack this stem.
        """
        names = self.whole or self.sources
        return next((name for name in EVERYTHING_ELSE if name in names), names[-1] if names else None)

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """Move to `device`, compute in `dtype`, and store what depends on the length of a call.

        samples: the length T of the calls to come. It is called once, before the first chunk. Constants
        (windows, positional embeddings, folded weights) are stored here and nowhere else.
        """
        self.to(device)
        self.eval()

    def used(self) -> Mapping[str, Any]:
        """The options that this model runs with, for the manifest; also those that follow from others."""
        return {}

    def notices(self, device: torch.device) -> Sequence[str]:
        """Sentences for the user before this model runs on `device`: what is different there."""
        return ()

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 at `samplerate` -> [B, S, C, T] float32."""
        raise NotImplementedError

    def select(self, sources: Sequence[str]) -> Separator:
        """This model with only `sources`, in this order, which does only the work that they need.

        UsageError for a stem that the model does not have.
        """
        raise NotImplementedError


# --- what only some separators can do: base classes for their networks ---


class Queryable(Separator):
    """A separator that also makes a stem from a recorded example of its sound, a query.

    `sources` are the stems that it knows by name. It may have none: then it makes nothing before `bind`.
    """

    min_query: float  # seconds; a shorter example tells too little

    def bind(self, queries: Mapping[str, Tensor]) -> Separator:
        """This model with a stem for each query too: an ordinary Separator, which `select` can narrow.

        queries: {stem name: [C, T] float32 at the model's rate and on its device}; not silent, and
        `min_query` or longer. The new `sources` are the model's own in their order, then the new names; a query
        with the name of a source takes its place. The model itself is not changed, and the stem of a query
        depends on no other query.
        """
        raise NotImplementedError


class Inspectable(Separator):
    """A separator that shows, for each stem and over time, to which of its latent sources it attends.

    It takes calls of `segment.samples`, and needs no standardised track.
    """

    attention_hop: int  # samples from one frame to the next
    attention_levels: int  # number of places with attention: 1 is the last before the output, and the finest

    def attention_maps(self, mix: Tensor, level: int = 1) -> Tensor:
        """[B, C, T] float32 -> [B, S, N, L]: weights of L latent sources, with sum 1, for each stem and frame.

        Frame n is centred on sample n * attention_hop; N = T // attention_hop + 1. A level that has fewer
        frames gives each of them several times.
        """
        raise NotImplementedError


class Coder(Separator):
    """A separator of one stem, which it turns into latents and back. The latents can be changed in between.

    B items, C channels, T samples; N = T / hop latents (rounded up) of D values; Q codebooks.
    """

    hop: int  # samples of a latent
    codebooks: int  # of its quantiser; 0 if it has none
    codebook_size: int  # codes are 0 ... codebook_size - 1

    def encode(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T] -> latents [B, D, N] without the level, and the level [B, 1, 1]."""
        raise NotImplementedError

    def decode(self, z: Tensor, scale: Tensor, samples: int) -> Tensor:
        """Latents [B, D, N] and levels [B, 1, 1] -> [B, C, T = samples]."""
        raise NotImplementedError

    def quantize(self, z: Tensor, bandwidth: float | None = None) -> Tensor:
        """Latents -> codes [Q, B, N], int64. bandwidth: kbit/s, None: all codebooks. UsageError without any."""
        raise NotImplementedError

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [Q, B, N] -> latents [B, D, N]."""
        raise NotImplementedError


AnySeparator = TypeVar("AnySeparator", bound=Separator)


def narrowed_copy(model: AnySeparator, sources: Sequence[str]) -> AnySeparator:
    """A second module tree over the model's weights (nn.sharing) with these stems, in this order, as its own.

    What it needn't do for them is the caller's to leave out. UsageError for a stem that the model lacks.
    """
    source_indices(model.sources, sources)
    narrowed = sharing_copy(model)
    narrowed.sources, narrowed.whole = tuple(sources), model.whole or model.sources
    return narrowed


def source_indices(model_sources: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The index of each wanted stem among the model's. UsageError for others; it names the model's stems."""
    missing = [name for name in wanted if name not in model_sources]
    if missing:
        raise UsageError(
            f"The model has no stem {', '.join(repr(name) for name in missing)}; "
            f"it has {', '.join(model_sources) or 'none of its own'}.",
            remedy="Choose among these, or find models with `sepcli models list --target STEM`.",
            code="unknown_stem",
        )
    return [list(model_sources).index(name) for name in wanted]
