"""From the range of a block to the numbers that are stored, and from those to its grid."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab.quantization.formats import Format
from wlab.quantization.grids import Blocks, Fit, Noise, reciprocal
from wlab.quantization.scales import (
    E8M0,
    bounded,
    round_down_to_power,
    round_minimum,
    round_scale,
)

_BYTE_MAX = 448.0  # the largest e4m3 scale
_OUTER_LEAST = 2.0**-117  # so that the product with the least e4m3 scale is a normal number


class Parts(NamedTuple):
    """What is stored of each block beside its codes, in float32; None what the format lacks.

    Attributes:
        scale: The width of a step, or of the grid's unit.
        zero_point: The code of zero, or the value of code 0.
        outer: The scale of the scales, one for the array.
    """

    scale: Blocks | None
    zero_point: Blocks | None
    outer: Blocks | None


class Fitted(NamedTuple):
    """A grid as codes are chosen by, and as it is stored: mostly one and the same."""

    coding: Fit
    parts: Parts


def outer_scale(x: Blocks, format: Format) -> Blocks | None:
    """One scale for all of the array's scales, if the format has it: amax / (448 · grid's end)."""
    if not format.outer:
        return None
    amax = jnp.max(jnp.abs(x), keepdims=True, initial=0)
    outer = round_scale(amax * np.float32(1 / (_BYTE_MAX * format.grid.steps)), "float32")
    return jnp.maximum(outer, np.float32(_OUTER_LEAST))


def fit(low: Blocks, high: Blocks, format: Format, outer: Blocks | None = None) -> Fitted:
    """The grid of each block for values in [low, high], and what is stored of it.

    Args:
        low: The lower end of each block; at most zero, unless the grid stores its minimum.
        high: The upper end.
        format: The format.
        outer: From `outer_scale`.
    """
    grid = format.grid
    if not grid.scaled:
        return Fitted(Fit(None, None), Parts(None, None, None))
    exact = format.coding == "exact"
    raw = _raw_scale(low, high, format)
    relative = raw if outer is None else raw * reciprocal(outer)
    scale = round_scale(relative, format.scale_dtype, subnormal=exact)
    start = round_minimum(low, format.scale_dtype) if grid.reach == "free" else low
    parts = Parts(scale, grid.fit(start, scale).zero_point, outer)
    return Fitted(grid.fit(low, bounded(raw)) if exact else read(parts), parts)


def read(parts: Parts) -> Fit:
    """The grid that stored numbers describe."""
    if parts.scale is None or parts.outer is None:
        return Fit(parts.scale, parts.zero_point)
    return Fit(parts.scale * parts.outer, parts.zero_point)


def nearest_values(
    x: Blocks, fitted: Fitted, format: Format, noise: Noise | None = None
) -> Float[Array, "..."]:
    """Each entry's nearest grid point: what its code will be read as."""
    codes = format.grid.encode(x, fitted.coding, noise)
    return format.grid.decode(codes, read(fitted.parts))


def _raw_scale(low: Blocks, high: Blocks, format: Format) -> Blocks:
    if format.scale_dtype != E8M0:
        return format.grid.scale(low, high)
    power = 2.0 ** np.floor(np.log2(format.grid.steps))
    return round_down_to_power(jnp.maximum(-low, high)) * np.float32(1 / power)
