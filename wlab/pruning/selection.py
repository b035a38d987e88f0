"""Exact-k selection: the k-th largest score and the mask of the k largest, without a sort.

Exactly `k` entries are chosen, ties going to the lower flat index (of several leaves, to
the earlier leaf). Deterministic: the same on one device and on a mesh, under jit and vmap.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32

from wlab.pruning.order import key_bits, ordered_keys, score_at, smallest_from, sum_together
from wlab.pruning.search import Keys, Search, bisection

_MOST = 2**31 - 1


def kth_threshold(
    scores: Float[Array, "..."] | Sequence[Float[Array, "..."]],
    k: int | Int[Array, ""],
    *,
    search: Search = bisection,
) -> Float[Array, ""]:
    """The k-th largest score, of one array or of several leaves together.

    Args:
        scores: Any shapes, without concatenation. NaN ranks above infinity.
        k: From 1 to the number of scores; clipped to that range.
        search: `bisection`, or for a million scores and more on one device `bracket`,
            or `near(an earlier threshold)`. The result is the same.

    Raises:
        TypeError: If the scores are not float32, bfloat16 or float16.
        ValueError: If there are 2³¹ scores or more.
    """
    leaves = _one_dtype([scores] if isinstance(scores, Array) else scores)
    keys = [ordered_keys(leaf) for leaf in leaves]
    bound, _ = search(keys, _as_count(k, keys, 1), key_bits(leaves[0].dtype))
    # A search may stop at a threshold between two keys; the smallest key above is the k-th.
    smallest = jnp.min(jnp.stack([smallest_from(key, bound) for key in keys]))
    return score_at(smallest, leaves[0].dtype)


def topk_mask(
    scores: Float[Array, "*shape"], k: int | Int[Array, ""], *, search: Search = bisection
) -> Bool[Array, "*shape"]:
    """True at the `k` largest scores; ties go to the lower flat index.

    Args:
        scores: Larger is kept, NaN first.
        k: Entries kept, clipped to [0, size]; may be traced.
        search: As in `kth_threshold`.

    Raises:
        TypeError: If the scores are not float32, bfloat16 or float16.
        ValueError: If there are 2³¹ scores or more.
    """
    return topk_masks([scores], k, search=search)[0]


def topk_masks(
    scores: Sequence[Float[Array, "..."]], k: int | Int[Array, ""], *, search: Search = bisection
) -> list[Bool[Array, "..."]]:
    """True at the `k` largest scores of all leaves together, as `topk_mask`."""
    leaves = _one_dtype(scores)
    keys = [ordered_keys(leaf) for leaf in leaves]
    wanted = _as_count(k, keys, 0)
    bound, reached = search(keys, wanted, key_bits(leaves[0].dtype))

    def without_ties() -> list[Bool[Array, "..."]]:
        return [key >= bound for key in keys]

    def with_ties() -> list[Bool[Array, "..."]]:
        tied = [key == bound for key in keys]
        in_rows = [_in_rows(leaf) for leaf in tied]
        sizes = [jnp.sum(in_row) for in_row in in_rows]
        left, masks = sum(sizes, wanted - reached), []
        for key, leaf, in_row, size in zip(keys, tied, in_rows, sizes, strict=True):
            masks.append((key > bound) | _first_true(leaf, in_row, left))
            left -= size
        return masks

    return lax.cond(reached == wanted, without_ties, with_ties)


def _in_rows(mask: Bool[Array, "*shape"]) -> Int32[Array, "..."]:
    """How many entries of each row are true; a scalar is a row."""
    # XLA:CPU writes out the operand of such a sum: half as much in 16 bits, if they suffice.
    dtype = jnp.uint16 if mask.ndim and mask.shape[-1] < 1 << 16 else jnp.int32
    return jnp.sum(mask, axis=range(mask.ndim)[-1:], dtype=dtype).astype(jnp.int32)


def _first_true(
    mask: Bool[Array, "*shape"], in_row: Int32[Array, "..."], n: Int32[Array, ""]
) -> Bool[Array, "*shape"]:
    """Keeps the first `n` true entries in flat order, given how many there are in each row.

    Only in the one row where the count runs out are positions looked at.
    """
    if mask.ndim == 0:
        return mask & (n > 0)
    row = flat_index(in_row.shape)
    cut, left = _run_out(in_row, row, n)
    is_cut = row == cut
    in_cut = jnp.any(mask & is_cut[..., None], axis=range(mask.ndim - 1))
    column = lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    last, _ = _run_out(in_cut.astype(jnp.int32), flat_index(in_cut.shape), left)
    return mask & ((row < cut)[..., None] | (is_cut[..., None] & (column < last)))


def flat_index(shape: tuple[int, ...]) -> Int32[Array, "*shape"]:
    """The position of every entry in flat order, without a reshape."""
    index = jnp.zeros(shape, jnp.int32)
    for axis, size in enumerate(shape):
        index = index * size + lax.broadcasted_iota(jnp.int32, shape, axis)
    return index


def _run_out(
    amounts: Int32[Array, "*shape"], index: Int32[Array, "*shape"], n: Int32[Array, ""]
) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
    """The most leading entries that sum to at most `n`, and what they leave of it.

    Searched two bits a pass, as `bisection`: a prefix sum compiles to a deep ladder of slices
    and is refused over explicitly sharded axes.
    """

    def advance(
        i: Int32[Array, ""], found: tuple[Int32[Array, ""], Int32[Array, ""]]
    ) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
        start, spent = found
        ends = start + (jnp.array([1, 2, 3], jnp.int32) << (2 * (passes - 1 - i)))
        sums = sum_together([jnp.where(index < ends[j], amounts, 0) for j in range(3)])
        fits = (sums <= n) & (ends <= amounts.size)
        return jnp.max(jnp.where(fits, ends, start)), jnp.max(jnp.where(fits, sums, spent))

    passes = -(-amounts.size.bit_length() // 2)
    zero = jnp.zeros_like(n)
    start, spent = lax.fori_loop(0, passes, advance, (zero, zero))
    return start, n - spent


def _as_count(k: int | Int[Array, ""], keys: Keys, least: int) -> Int32[Array, ""]:
    size = sum(key.size for key in keys)
    if size > _MOST:
        raise ValueError(
            f"{size:,} scores cannot be ranked together: counts are int32, at most {_MOST:,}. "
            "Rank each leaf by itself, as `uniform` and `erk` do."
        )
    k = min(k, size) if isinstance(k, int) else k
    return jnp.clip(jnp.asarray(k, jnp.int32), least, size)


def _one_dtype(scores: Sequence[Float[Array, "..."]]) -> list[Float[Array, "..."]]:
    same = len({leaf.dtype for leaf in scores}) == 1
    return [leaf if same else leaf.astype(jnp.float32) for leaf in scores]
