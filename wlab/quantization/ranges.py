"""Where a block's grid should end: a range function takes blocks to (low, high), low ≤ 0 ≤ high."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from wlab.quantization.formats import Format
from wlab.quantization.grids import Blocks

Axes: TypeAlias = tuple[int, ...]  # the axes within a block
RangeFn: TypeAlias = Callable[[Blocks, Axes, Format], tuple[Blocks, Blocks]]

SHRINK = tuple(percent / 100 for percent in range(100, 19, -1))


def absmax(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
    """From the smallest to the largest weight of each block, zero included; even if symmetric."""
    if format.grid.symmetric:
        high = jnp.max(jnp.abs(x), axes, keepdims=True, initial=0)
        return -high, high
    low = jnp.min(x, axes, keepdims=True, initial=0)
    return low, jnp.max(x, axes, keepdims=True, initial=0)


def mse(grid: Sequence[float] = SHRINK) -> RangeFn:
    r"""The `absmax` range times the factor of the least squared error, for each block.

    $c^\* = \arg\min_c \sum_i (w_i - Q_c(w_i))^2$ over the grid; the first of equals wins, and
    1 is always tried first, so no block is worse than under `absmax`. Two factors whose errors
    agree to rounding may be told apart differently by differently compiled programs.

    Args:
        grid: Factors in (0, 1].

    Raises:
        ValueError: If a factor is out of range.
    """
    factors = np.asarray(grid, np.float32)
    if not np.all((factors > 0) & (factors <= 1)):
        raise ValueError(f"mse: every factor must be in (0, 1], got {tuple(grid)}.")

    def range_fn(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
        low, high = absmax(x, axes, format)

        def error(factor: Blocks) -> Blocks:
            fit = format.fit(low * factor, high * factor)
            rounded = format.grid.decode(format.grid.encode(x, fit), fit)
            return jnp.sum(jnp.square(x - rounded), axes, keepdims=True)

        def try_next(best: tuple[Blocks, Blocks], factor: Blocks):
            factor = jnp.full_like(high, factor)
            found = error(factor)
            better = found < best[1]
            return (jnp.where(better, factor, best[0]), jnp.where(better, found, best[1])), None

        whole = jnp.ones_like(high)
        (factor, _), _ = jax.lax.scan(try_next, (whole, error(whole)), jnp.asarray(factors))
        return low * factor, high * factor

    return range_fn
