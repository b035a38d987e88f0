"""Floats as integers of the same order, and the one primitive of selection: counting.

Selection never sorts. It asks how many keys reach a threshold, for several thresholds in
one pass over the data; only the counts are summed over shards and leaves.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32, UInt32

_WORDS = {16: jnp.uint16, 32: jnp.uint32}


def ordered_keys(scores: Float[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Maps scores to integers of the same order: offset binary from sign and magnitude.

    Both zeros share a key, and all NaNs share one above infinity: a diverged weight ranks
    first, so it is kept and seen rather than quietly pruned.

    Raises:
        TypeError: If the scores are not float32, bfloat16 or float16.
    """
    sign, inf = _layout(scores.dtype)
    word = _WORDS[key_bits(scores.dtype)]
    pattern = lax.bitcast_convert_type(scores, word).astype(jnp.uint32)
    size = jnp.minimum(pattern & (sign - 1), inf + 1)
    return jnp.where((pattern >= sign) & (size <= inf), sign - size, sign + size)


def score_at(key: UInt32[Array, ""], dtype: np.dtype) -> Float[Array, ""]:
    """The score that a key stands for: the inverse of `ordered_keys`, with +0 for both zeros."""
    sign, _ = _layout(dtype)
    pattern = jnp.where(key >= sign, key - sign, sign - key) | jnp.where(key < sign, sign, 0)
    return lax.bitcast_convert_type(pattern.astype(_WORDS[key_bits(dtype)]), dtype)


def key_bits(dtype: np.dtype) -> int:
    """The width of a dtype's keys.

    Raises:
        TypeError: As `ordered_keys`.
    """
    if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits not in _WORDS:
        raise TypeError(f"Scores are float32, bfloat16 or float16, not {dtype}: cast them first.")
    return jnp.finfo(dtype).bits


def counts(
    keys: UInt32[Array, "*shape"], thresholds: UInt32[Array, " m"], *, by_rows: bool = False
) -> Int32[Array, " m"]:
    """Counts the keys at or above each threshold, in one pass.

    One variadic reduction over all thresholds is vectorized by XLA:CPU where a reduction
    a threshold is not.

    Args:
        keys: Of any shape.
        thresholds: A few of them.
        by_rows: Count in rows first: on all cores, but on a mesh the rows' counts are exchanged.
    """
    reached = [(keys >= thresholds[i]).astype(jnp.int32) for i in range(thresholds.size)]
    return sum_together(_add_up(reached, (keys.ndim - 1,)) if by_rows and keys.ndim else reached)


def smallest_from(keys: UInt32[Array, "*shape"], bound: UInt32[Array, ""]) -> UInt32[Array, ""]:
    """The smallest key at or above a bound, or 2³² - 1 if there is none."""
    top = jnp.uint32(0xFFFFFFFF)
    # The second operand is idle: XLA:CPU vectorizes no reduction of one operand.
    operands = tuple(jnp.where(mask, keys, top) for mask in (keys >= bound, keys > bound))
    found = lax.reduce(operands, (top, top), _min_pairs, tuple(range(keys.ndim)))
    return jnp.minimum(*found)


def sum_together(arrays: Sequence[Int32[Array, "*shape"]]) -> Int32[Array, " m"]:
    """Sums each of several arrays of one shape, all in one pass.

    Over all axes at once: on a mesh only one number a shard and axis is exchanged, where
    summing the last axis first would exchange the sums of all rows.
    """
    return jnp.stack(_add_up(arrays, tuple(range(arrays[0].ndim))))


def _add_up(
    arrays: Sequence[Int32[Array, "*shape"]], axes: tuple[int, ...]
) -> Sequence[Int32[Array, "..."]]:
    return lax.reduce(tuple(arrays), (jnp.int32(0),) * len(arrays), _add_pairs, axes)


def _min_pairs(a: Sequence[Array], b: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(map(lax.min, a, b))


def _add_pairs(a: Sequence[Array], b: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(map(lax.add, a, b))


def _layout(dtype: np.dtype) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """The sign bit and the pattern of infinity."""
    bits = key_bits(dtype)
    infinity = np.array(np.inf, dtype).view(np.dtype(_WORDS[bits]))
    return jnp.uint32(1 << (bits - 1)), jnp.uint32(infinity)
