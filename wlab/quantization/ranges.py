"""Where a block's grid should end: a range function takes blocks to (low, high), low ≤ 0 ≤ high."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from wlab.quantization.fits import fit, nearest_values, outer_scale
from wlab.quantization.formats import Format
from wlab.quantization.grids import Blocks

Axes: TypeAlias = tuple[int, ...]  # the axes within a block
RangeFn: TypeAlias = Callable[[Blocks, Axes, Format], tuple[Blocks, Blocks]]

SHRINK = tuple(percent / 100 for percent in range(100, 19, -1))


def absmax(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
    """The whole of each block: from the smallest to the largest weight, by the grid's `reach`.

    Zero is included, and both sides are even if the grid is symmetric. A grid that stores its
    minimum takes no more than is there; one whose scale has a sign takes the weight of largest
    magnitude, the first of equals, and zero.
    """
    reach = format.grid.reach
    if reach == "even":
        high = jnp.max(jnp.abs(x), axes, keepdims=True, initial=0)
        return -high, high
    if reach == "one_end":
        end = _largest(x, axes)
        return jnp.minimum(end, 0), jnp.maximum(end, 0)
    if reach == "free" and x.size:
        return jnp.min(x, axes, keepdims=True), jnp.max(x, axes, keepdims=True)
    low = jnp.min(x, axes, keepdims=True, initial=0)
    return low, jnp.max(x, axes, keepdims=True, initial=0)


def _largest(x: Blocks, axes: Axes) -> Blocks:
    """The entry of largest magnitude with its sign, the first of equals; NaN if there is one."""
    magnitude = jnp.abs(x)
    high = jnp.max(magnitude, axes, keepdims=True, initial=0)
    place, stride = jnp.zeros_like(x, jnp.int32), 1
    for axis in reversed(axes):
        place = place + stride * jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
        stride *= x.shape[axis]
    place = jnp.where(magnitude == high, place, stride)
    first = place == jnp.min(place, axes, keepdims=True, initial=stride)
    positive = jnp.any(first & (x > 0), axes, keepdims=True)
    return jnp.where(positive, high, -high)


def absmean(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
    r"""The mean magnitude of each block, on both sides: the scale of ternary and binary weights.

    $\alpha = \frac{1}{n} \sum_i |w_i|$, which for ±α has the least squared error.

    Raises:
        ValueError: If the format has groups, the last of which may be short, or zero points.

    Reference:
        Rastegari et al. 2016 (arXiv:1603.05279), equation 6; Ma et al. 2024 (arXiv:2402.17764),
        equations 1 to 3.
    """
    if format.group_size is not None or format.grid.reach != "even":
        raise ValueError(f"absmean takes whole axes on a symmetric grid, got {format}.")
    mean = jnp.mean(jnp.abs(x), axes, keepdims=True)
    return -mean, mean


def mse(grid: Sequence[float] = SHRINK) -> RangeFn:
    r"""The `absmax` range times the factor of the least squared error, for each block: `lp(2)`.

    $c^\* = \arg\min_c \sum_i (w_i - Q_c(w_i))^2$.

    Args:
        grid: Factors in (0, 1].

    Raises:
        ValueError: If a factor is out of range.
    """
    return lp(2, grid)


def lp(power: float | int, grid: Sequence[float] = SHRINK) -> RangeFn:
    r"""The `absmax` range times the factor of the least error to a power, for each block.

    $c^\* = \arg\min_c \sum_i |w_i - Q_c(w_i)|^p$ over the grid; the first of equals wins, and
    1 is always tried first, so no block is worse than under `absmax`. Two factors whose errors
    agree to rounding may be told apart differently by differently compiled programs.

    Args:
        power: p, above 0: the larger, the more the largest weights count. GPTQ's program has 2.4.
        grid: Factors in (0, 1].

    Raises:
        ValueError: If the power or a factor is out of range.

    Reference:
        Nahshan et al. 2019 (arXiv:1911.07190): clipping by the least Lp norm of the error.
    """
    if not 0 < power < float("inf"):
        raise ValueError(f"lp: power must be above 0 and finite, got {power}.")
    factors = np.asarray(grid, np.float32)
    if not np.all((factors > 0) & (factors <= 1)):
        raise ValueError(f"Every factor of a range must be in (0, 1], got {tuple(grid)}.")

    def range_fn(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
        low, high = absmax(x, axes, format)
        outer = outer_scale(x, format)

        def error(factor: Blocks) -> Blocks:
            rounded = nearest_values(x, fit(low * factor, high * factor, format, outer), format)
            lost = jnp.abs(x - rounded)
            each = jnp.square(lost) if power == 2 else lost ** np.float32(power)
            return jnp.sum(each, axes, keepdims=True)

        def try_next(best: tuple[Blocks, Blocks], factor: Blocks):
            factor = jnp.full_like(high, factor)
            found = error(factor)
            better = found < best[1]
            return (jnp.where(better, factor, best[0]), jnp.where(better, found, best[1])), None

        whole = jnp.ones_like(high)
        (factor, _), _ = jax.lax.scan(try_next, (whole, error(whole)), jnp.asarray(factors))
        return low * factor, high * factor

    return range_fn
