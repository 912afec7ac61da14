"""Sparse attention of HTDemucs: every query reads only some of the keys.

Knows queries, keys and values; nothing of layers, positions or sound.

    hashed   (t_auto_sparsity; Rouard et al. 2023, "Sparse HT Demucs") the pairs that fall into the same bucket
             in the most of 32 rounds of locality sensitive hashing, so many of them that a wanted share is kept
    fixed    (t_mask_type) pairs that stand in a given relation: diag, jmask, random, global, joined by "_"

Hashed pairs can be computed in two ways with one result: `masked`, the reference, in blocks of queries with a
mask that is made and thrown away block by block; and `flex`, torch's flex_attention, which finds out within its
kernel whether a pair is kept. The kept pairs are scattered all over, so both compute all scores and drop nine
tenths: neither is cheaper than dense attention without stored scores. (The paper's kernel was never released.)

Weights have the names and shapes of dense attention, so a sparse network can start from a dense one.
Axes: B batch, H heads, Q queries, K keys, R rounds, D channels of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sepcli.engine.device import cpu_has_bfloat16
from sepcli.errors import ModelError, first_line

ROUNDS = 32  # of hashing, each with four buckets
BLOCK = 1 << 22  # pairs of an item, in all heads, in one block of the masked way: 16 MB of float32
FIXED = ("diag", "jmask", "random", "global")

# kept(rows): the keys that the queries with these numbers [Q'] read; bool, broadcasts to [B, H, Q', K].
Kept = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sparsity:
    """Which pairs of a query and a key are kept: HTDemucs' constructor arguments of the same meaning."""

    hashed: bool  # t_auto_sparsity; else the fixed masks
    dropped: float  # t_sparsity: share of the pairs that are left out (hashed and random)
    masks: tuple[str, ...] = ()  # t_mask_type, split; a pair is kept if any of them keeps it
    window: int = 500  # t_sparse_attn_window: tokens to either side (diag)
    leading: int = 100  # t_global_window: first tokens, which read all and are read by all (global)
    seed: int = 42  # t_mask_random_seed: of random masks, and of the hashes outside training

    def __post_init__(self) -> None:
        unknown = [mask for mask in self.masks if mask not in FIXED]
        if not self.hashed and (unknown or not self.masks):
            raise ModelError(
                f"HTDemucs has no attention mask t_mask_type='{'_'.join(self.masks)}'; there are "
                f"{', '.join(FIXED)}, and several joined by '_'.",
                remedy="Correct t_mask_type in the model's config, or set t_auto_sparsity.",
                code="bad_config",
            )
        if not 0 <= self.dropped < 1:
            raise ModelError(
                f"t_sparsity={self.dropped} is no share of pairs that can be left out.",
                remedy="Give t_sparsity in the model's config as 0 to less than 1; 0.9 keeps a tenth.",
                code="bad_config",
            )

    def generator(self) -> torch.Generator:
        """A new generator of torch, on the CPU, at `seed`."""
        return torch.Generator().manual_seed(self.seed)


# --- hashed pairs ------------------------------------------------------------------------------------------


class HashedPairs:
    """The pairs of queries [B, H, Q, D] and keys [B, H, K, D] that agree in most rounds: a share of `keep`.

    A round projects a token on two random directions a and b; its bucket is the largest of a, b, -a, -b. Tokens
    of similar direction fall into the same one. 32 rounds only know 33 grades, too coarse for a share: within
    the last grade that is let in, the tie of a pair (a fixed number in [0, 1)) decides. So a pair is kept if

        agreements + tie >= threshold          one threshold [B, H] for each item and head

    generator: of the directions; None: torch's own, so that every call draws others.
    """

    def __init__(self, query: Tensor, key: Tensor, keep: float, generator: torch.Generator | None = None):
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            shape = (query.shape[-1], 2 * ROUNDS)
            if generator is None:
                directions = torch.randn(shape, device=query.device)
            else:  # drawn on the CPU: the same on every device
                directions = torch.randn(shape, generator=generator).to(query.device)
            self.query_buckets = buckets(query, directions)
            self.key_buckets = buckets(key, directions)
            kind = counting_dtype(query.device)
            self.query_corners = corners(*self.query_buckets, kind)
            self.key_corners = corners(*self.key_buckets, kind).transpose(-1, -2)
            self.block = block_rows(query, key.shape[2])
            self.threshold = self._threshold(keep)

    def __call__(self, rows: Tensor) -> Tensor:
        """See Kept."""
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            keys = torch.arange(self.key_corners.shape[-1], device=rows.device)
            # Both sides of the inequality as products: one pass less over the largest tensor.
            limit = 4 * self.threshold - ROUNDS
            return self._products(rows) + 4 * tie(rows[:, None], keys) >= limit[..., None, None]

    def agreements(self, rows: Tensor) -> Tensor:
        """Rounds in which these queries and all keys have the same bucket, [B, H, Q', K] uint8."""
        return ((self._products(rows) + ROUNDS) / 4).to(torch.uint8)

    def _products(self, rows: Tensor) -> Tensor:
        """4 agreements - 32: equal corners of a tetrahedron have the inner product 3, different ones -1. Small
        whole numbers, so exact in bfloat16 too."""
        return self.query_corners[:, :, rows] @ self.key_corners

    def _threshold(self, keep: float) -> Tensor:
        batch, heads, queries, _ = self.query_corners.shape
        device = self.query_corners.device
        if keep == 1:
            return torch.zeros(batch, heads, device=device)
        grades = ROUNDS + 1
        offsets = grades * torch.arange(batch * heads, dtype=torch.int32, device=device)
        counts = torch.zeros(batch * heads * grades, dtype=torch.int64, device=device)
        for rows in torch.arange(queries, device=device).split(self.block):
            grade = self.agreements(rows) + offsets.view(batch, heads, 1, 1)
            counts += torch.bincount(grade.flatten(), minlength=len(counts))
        counts = counts.view(batch, heads, grades).cpu().double()  # pairs of each grade
        reached = F.pad(counts.flip(-1).cumsum(-1).flip(-1), (0, 1))  # pairs of each grade or a higher one
        wanted = keep * reached[..., :1]
        edge = (reached >= wanted).sum(-1, keepdim=True) - 1  # the last grade that is let in
        share = (wanted - reached.gather(-1, edge + 1)) / counts.gather(-1, edge)
        return (edge + 1 - share).squeeze(-1).float().to(device)


def buckets(x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, H, T, D], directions [D, 2 R] -> the two bits of each bucket, bool [B, H, T, R].

    The first bit: b wins over a. The second: the winner is negative.
    """
    a, b = (x.float() @ directions).chunk(2, dim=-1)
    second = b.abs() > a.abs()
    return second, torch.where(second, b, a) < 0


def corners(second: Tensor, negative: Tensor, dtype: torch.dtype) -> Tensor:
    """Buckets [B, H, T, R] -> corners of a tetrahedron, [B, H, T, 3 R] of -1 and 1."""
    x, y = 1 - 2 * second.to(dtype), 1 - 2 * negative.to(dtype)
    return torch.cat([x, y, x * y], dim=-1)


def counting_dtype(device: torch.device) -> torch.dtype:
    """The fastest type that counts to 96 without rounding."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def tie(query: Tensor, key: Tensor) -> Tensor:
    """The ties of pairs: numbers of queries and keys -> float32 in [0, 1), spread evenly over any block.

    A lattice in 16 bits: multiples of 1/p and 1/p^2, p = 1.3247... (p^3 = p + 1), which no ratio comes near.
    """
    return ((query.int() * 49471 + key.int() * 37345) & 0xFFFF) * (1 / 65536)


# --- fixed pairs -------------------------------------------------------------------------------------------


class FixedPairs:
    """The pairs that the masks named in a Sparsity keep, of Q queries and K keys.

    Queries of another rate than the keys (across the branches) stand where the same share of the sequence has
    passed.
    """

    def __init__(self, sparsity: Sparsity, queries: int, keys: int, device: torch.device):
        self.sparsity, self.queries, self.keys = sparsity, queries, keys
        self.drawn: Tensor | None = None  # bool [Q, K], the random mask
        self.triangular: Tensor | None = None  # bool [K + 1], whether a distance is a triangular number
        if "random" in sparsity.masks:
            drawn = torch.rand(queries, keys, generator=sparsity.generator()) > sparsity.dropped
            self.drawn = drawn.to(device)
        if "jmask" in sparsity.masks:  # 0, 1, 3, 6, 10, ... up to the number of keys
            numbers = torch.arange(int((2 * keys) ** 0.5) + 1)
            numbers = numbers * (numbers + 1) // 2
            triangular = torch.zeros(keys + 1, dtype=torch.bool)
            triangular[numbers[numbers <= keys]] = True
            self.triangular = triangular.to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """See Kept."""
        key = torch.arange(self.keys, device=rows.device)
        return torch.stack([self._mask(name, rows[:, None], key) for name in self.sparsity.masks]).any(0)

    def _mask(self, name: str, row: Tensor, key: Tensor) -> Tensor:
        if name == "diag":
            return (key - row * self.keys // self.queries).abs() <= self.sparsity.window
        if name == "jmask":  # tokens are counted from 1 here, as the original does
            assert self.triangular is not None
            return self.triangular[(key + 1 - (row + 1) * self.keys // self.queries).abs()]
        if name == "random":
            assert self.drawn is not None
            return self.drawn[row[:, 0]]
        leading = self.sparsity.leading
        return (key < leading) | (row < leading * self.queries // self.keys)


# --- attention ---------------------------------------------------------------------------------------------


class SparseWeighing(nn.Module):
    """Sparse attention without its projections, so without weights. head_channels: D."""

    def __init__(self, sparsity: Sparsity, head_channels: int):
        super().__init__()
        self.sparsity = sparsity
        self.head_channels = head_channels

    def backend(self, device: torch.device) -> Backend:
        """How this attention is computed on `device`, and why."""
        if not self.sparsity.hashed:
            return Backend("masked", "fixed masks are only computed in this way")
        return choose_backend(device.type, self.head_channels)

    def notices(self, device: torch.device) -> tuple[str, ...]:
        """See Separator: where sparse attention saves nothing on `device`, and why."""
        backend = self.backend(device)
        if backend.name == "flex":
            return ()
        return (f"Sparse attention runs as masked dense attention, so it saves nothing: {backend.reason}.",)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries [B, H, Q, D], keys and values [B, H, K, D] -> [B, H, Q, D]; zeros where no key is kept."""
        if not self.sparsity.hashed:
            fixed = FixedPairs(self.sparsity, query.shape[2], key.shape[2], query.device)
            return masked_attention(query, key, value, fixed)
        # In training every call hashes anew, so that no pair is left out for good.
        generator = None if self.training else self.sparsity.generator()
        pairs = HashedPairs(query, key, 1 - self.sparsity.dropped, generator)
        if self.backend(query.device).name == "flex":
            return compiled_flex()(query, key, value, *flex_arguments(pairs))
        return masked_attention(query, key, value, pairs)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, kept: Kept) -> Tensor:
    """The reference: softmax(q k' / sqrt(D)) v over the kept pairs only, zeros where a query keeps none.

    Queries [B, H, Q, D], keys and values [B, H, K, D] -> [B, H, Q, D]. For the backward pass only the inputs
    are stored: masks and scores of a block are computed again.
    """
    low = torch.finfo(query.dtype).min / 2  # weighs exactly 0, yet a row of nothing else gives no NaN

    def block(part: Tensor, key: Tensor, value: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            read = kept(rows)
            bias = torch.zeros(read.shape, dtype=part.dtype, device=part.device).masked_fill_(~read, low)
            some = read.any(-1, keepdim=True).to(part.dtype)
        bias = bias.expand(*part.shape[:2], -1, -1)
        return F.scaled_dot_product_attention(part, key, value, attn_mask=bias) * some

    size = block_rows(query, key.shape[2])
    rows = torch.arange(query.shape[2], device=query.device)
    backward = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    results = []
    for part, numbers in zip(query.split(size, dim=2), rows.split(size), strict=True):
        if backward:
            results.append(checkpoint(block, part, key, value, numbers, use_reentrant=False))
        else:
            results.append(block(part, key, value, numbers))
    return torch.cat(results, dim=2)


def block_rows(query: Tensor, keys: int) -> int:
    """The number of queries [B, H, Q, ...] in one block; the same for any number B of items."""
    return max(1, BLOCK // (query.shape[1] * keys))


# --- flex_attention ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backend:
    """One of the two ways to compute sparse attention, and why it is taken."""

    name: str  # "masked" or "flex"
    reason: str  # a clause without its full stop


@functools.cache
def choose_backend(device_type: str, head_channels: int = 64) -> Backend:
    """How hashed attention is computed on "cpu", "cuda", ..., and why.

    Where it might be flex_attention, a small one is compiled and tried (seconds, once a process).
    """
    if device_type == "cpu":
        return Backend("masked", "on a CPU flex_attention has no backward pass, and forward it is no faster")
    if device_type != "cuda":
        return Backend("masked", f"flex_attention is not compiled for {device_type}")
    try:
        with torch.inference_mode(False), torch.enable_grad():
            drawn = torch.Generator().manual_seed(0)  # not torch's own: a training run's draws stay the same
            x = torch.randn(3, 1, 2, 256, head_channels, generator=drawn).to(device_type).requires_grad_()
            pairs = HashedPairs(x[0], x[1], 0.1, drawn)
            result = compiled_flex()(*x, *flex_arguments(pairs))
            query, key, value = x
            error = (result - masked_attention(query, key, value, pairs)).abs().max().item()
            result.sum().backward()
    except Exception as failure:  # noqa: BLE001  (the compiler's own, Triton's, the driver's: any of them means no)
        return Backend("masked", f"flex_attention does not compile here ({first_line(failure)})")
    if not error < 1e-2:
        return Backend("masked", f"flex_attention compiles here but differs from the reference by {error:.1g}")
    return Backend("flex", "torch compiles flex_attention for this device")


@functools.cache
def compiled_flex() -> Callable[..., Tensor]:
    """`flex_attention_hashed`, compiled once a process."""
    return torch.compile(flex_attention_hashed, dynamic=False)


def flex_arguments(pairs: HashedPairs) -> tuple[Tensor, ...]:
    """The pairs as `flex_attention_hashed` takes them: a token's buckets in two words, one bit a round."""
    return (*map(words, pairs.query_buckets), *map(words, pairs.key_buckets), pairs.threshold)


def words(bits: Tensor) -> Tensor:
    """bool [B, H, T, 32] -> [B, H, T] int64 below 2^32."""
    return (bits.long() << torch.arange(ROUNDS, device=bits.device)).sum(-1)


def ones(word: Tensor) -> Tensor:
    """How many of the 32 bits are set: sums of 2, 4 and 8 neighbours, then of the four bytes at once."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101 >> 24) & 0xFF


def flex_attention_hashed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_second: Tensor,
    query_negative: Tensor,
    key_second: Tensor,
    key_negative: Tensor,
    threshold: Tensor,
) -> Tensor:
    """The result of `masked_attention` over HashedPairs. Not compiled it stores all scores: for tests only."""
    from torch.nn.attention.flex_attention import flex_attention

    def only_kept(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        differs = query_second[b, h, i] ^ key_second[b, h, j]
        differs = differs | (query_negative[b, h, i] ^ key_negative[b, h, j])
        kept = ROUNDS - ones(differs) + tie(i, j) >= threshold[b, h]
        return torch.where(kept, score, -float("inf"))

    # Only with return_lse or return_aux it gives more than a tensor; its annotation has all cases in one.
    return flex_attention(query, key, value, score_mod=only_kept)  # pyright: ignore[reportReturnType]
