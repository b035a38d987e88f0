"""Ranges that leave out the largest weights: percentiles of a block, without sorting."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from wlab.quantization.formats import Format
from wlab.quantization.grids import Blocks
from wlab.quantization.ranges import Axes, RangeFn, absmax

_SIGN = np.uint32(1 << 31)
_MILLIONTH = 1 + 2.0**-20  # a whole number that rounding has made smaller still counts


def percentile(percent: float | int) -> RangeFn:
    r"""All but the outermost weights of each block: those beyond the range saturate.

    Of n ascending entries the percentile is entry $\lceil (n - 1) \, p / 100 \rceil$, from 0:
    always one that is there, none between two; `numpy.percentile(…, method="higher")`. A range
    that is even, or has one end, goes to the percentile of |w|; any other goes on each side to
    that of w and of −w, and to zero at least if the grid has an integer zero point. 100 is
    `absmax`.

    Zeros count only where the grid has none: elsewhere no range can harm them, and so neither
    pruned weights nor what fills up a short last group change it. A NaN or an infinity makes its
    block NaN.

    Args:
        percent: Above 50, at most 100. A block loses 1 − percent / 100 of its entries on a side,
            rounded down; so none at all if it has less than 100 / (100 − percent) + 1.

    Raises:
        ValueError: If `percent` is out of range.
    """
    if not 50 < percent <= 100:
        raise ValueError(f"percentile: percent must be above 50, at most 100, got {percent}.")
    beyond = (100 - percent) / 100

    def range_fn(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
        low, high = absmax(x, axes, format)
        counted = x != 0 if format.grid.keeps_zero else jnp.ones_like(x, bool)
        if format.grid.reach in ("even", "one_end"):
            end = _upper(jnp.abs(x), counted, beyond, axes)
            low, high = jnp.maximum(low, -end), jnp.minimum(high, end)
        else:
            low = jnp.maximum(low, -_upper(-x, counted, beyond, axes))
            high = jnp.minimum(high, _upper(x, counted, beyond, axes))
        if format.grid.reach == "zero":
            low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
        finite = jnp.all(jnp.isfinite(x), axes, keepdims=True)
        return jnp.where(finite, low, jnp.nan), jnp.where(finite, high, jnp.nan)

    return range_fn


def _upper(x: Blocks, counted: Bool[Array, "..."], beyond: float, axes: Axes) -> Blocks:
    """The entry that a part `beyond` of the others exceeds, rounded down; zero if none counts."""
    n = jnp.sum(counted, axes, keepdims=True, dtype=jnp.int32)
    left_out = jnp.maximum(n - 1, 0).astype(jnp.float32) * np.float32(beyond * _MILLIONTH)
    return jnp.where(n > 0, largest(x, counted, left_out.astype(jnp.int32), axes), 0)


def largest(
    x: Float[Array, "..."], counted: Bool[Array, "..."], rank: Int[Array, "..."], axes: Axes
) -> Float[Array, "..."]:
    """The entry, of those counted, that `rank` others exceed, along some axes, which are kept.

    Found bit by bit, from counts only: 32 passes, under any sharding. Meaningless where no more
    than `rank` entries are counted.

    Args:
        x: Finite, in float32.
        counted: Which entries count.
        rank: How many are larger, equal ones one after another; of the result's shape.
        axes: Those to look along.
    """
    keys = jnp.where(counted, _ascending(x), 0)

    def set_bit(i: Int[Array, ""], found: UInt[Array, "..."]) -> UInt[Array, "..."]:
        tried = found | (_SIGN >> i.astype(jnp.uint32))
        reach = jnp.sum(keys >= tried, axes, keepdims=True, dtype=jnp.int32)
        return jnp.where(reach > rank, tried, found)

    return _descended(jax.lax.fori_loop(0, 32, set_bit, jnp.zeros_like(rank, jnp.uint32)))


def _ascending(x: Float[Array, "..."]) -> UInt[Array, "..."]:
    """Words in the order of the numbers."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >= _SIGN, ~bits, bits | _SIGN)


def _descended(keys: UInt[Array, "..."]) -> Float[Array, "..."]:
    """Undoes `_ascending`."""
    return jax.lax.bitcast_convert_type(jnp.where(keys >= _SIGN, keys ^ _SIGN, ~keys), jnp.float32)
