"""Rounding to a grid whose scale, and offset, are learned: its value, its gradient, its start."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from wlab.quantization.arrays import quantize_on
from wlab.quantization.blocks import join, reduced, split
from wlab.quantization.fits import Parts, read
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.grids import Blocks, Fit, Integers, reciprocal
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import absmax
from wlab.quantization.scales import E4M3, E8M0, round_minimum, round_scale


class LearnedGrid(NamedTuple):
    """Where the grid of each block lies, in float32 and of shape `format.scale_shape(shape)`.

    Attributes:
        scale: The width of a step, before it is rounded to the format's scale dtype.
        offset: The value of code 0, before it is rounded; None if the format is symmetric.
    """

    scale: Float[Array, "..."]
    offset: Float[Array, "..."] | None


def even_grid(format: Format, name: str = "format") -> Integers:
    """The grid of a format whose scales can be learned.

    Raises:
        ValueError: If it is not a grid of evenly spaced integers, or its scales have 8 bits or
            another rule than the nearest code of the scale that is stored.
    """
    if not isinstance(format.grid, Integers):
        raise ValueError(f"{name} is {format}: learned scales need an even grid, as of int4().")
    if format.scale_dtype in (E4M3, E8M0) or format.coding != "stored":
        raise ValueError(
            f"{name} is {format}: learned scales need codes by the stored scale, in float32, "
            "float16 or bfloat16."
        )
    return format.grid


def start_grid(x: Float[Array, "*shape"], format: Format) -> LearnedGrid:
    r"""Where LSQ starts: $s = 2 \cdot \mathrm{mean}|w| / \sqrt{Q_P}$, over the w that are not zero.

    So the scale suits what a mask leaves. A block of nothing but zeros takes the mean of the whole
    array. An asymmetric grid starts from end to end of its block, as `absmax`, zero included.

    Raises:
        TypeError, ValueError: If x cannot take the format, or its scales cannot be learned.

    Reference:
        Esser et al. 2020 (arXiv:1902.08153), section 2.1. The asymmetric start is the plain range.
    """
    check_leaf(x, format)
    even_grid(format)
    blocks, axes = split(x.astype(jnp.float32), format), reduced(format, x.ndim)
    if format.grid.symmetric:
        factor = np.float32(2 / np.sqrt(_largest_code(format)))
        grid = LearnedGrid(_mean_magnitude(blocks, axes) * factor, None)
    else:
        low, high = absmax(blocks, axes, format)
        grid = LearnedGrid(format.grid.scale(low, high), low)
    return jax.tree.map(lambda per_block: jnp.squeeze(per_block, _group_axes(format, x.ndim)), grid)


def learned_round(
    x: Float[Array, "*shape"], grid: LearnedGrid, format: Format
) -> Float[Array, "*shape"]:
    r"""Rounds to the nearest point of a grid, with a gradient for the grid too.

    $v = (\mathrm{clip}(\lfloor w/s \rceil + z, q_0, q_1) - z) \cdot s$, bit for bit what
    `dequantize` makes of `learned_quantize`. Where the code w/s + z, unrounded, lies within
    [q₀, q₁],

    $\partial v/\partial w = 1,\quad \partial v/\partial s = g(\lfloor w/s \rceil - w/s),\quad
    \partial v/\partial\beta = 0$

    and beyond, with q the end of the grid,

    $\partial v/\partial w = 0,\quad \partial v/\partial s = g\,q,\quad
    \partial v/\partial\beta = g$

    q counts from zero in a symmetric format, where it is $-Q_N$ or $Q_P$ and there is no β. In
    an asymmetric one it counts from the offset β, the value of code 0, and $z = \lfloor
    -\beta/s \rceil$ (or $v = q s + \beta$ if the grid stores its minimum). $g = 1/\sqrt{n Q_P}$,
    with n the entries that share the scale, masked zeros among them. That s and β are rounded to
    be stored, and z to one of the codes, is passed through.

    The paper counts an entry exactly at an end as beyond it. Here it is within, so that zeros of
    a mask, on a grid that ends at zero, do not push the offset.

    Args:
        x: The weights.
        grid: From `start_grid`, then trained.
        format: An even grid with scales that are floats.

    Raises:
        TypeError, ValueError: As `start_grid`.

    Reference:
        Esser et al. 2020 (arXiv:1902.08153), equations 1 to 5 and section 2.2; Bhalgat et al. 2020
        (arXiv:2004.09576), section 3, for the offset.
    """
    check_leaf(x, format)
    even_grid(format)
    return _round(x, grid, format)


def learned_quantize(x: Float[Array, "*shape"], grid: LearnedGrid, format: Format) -> QTensor:
    """Writes each weight as its code on a grid that was learned: `learned_round`, packed.

    Raises:
        TypeError, ValueError: As `start_grid`.
    """
    check_leaf(x, format)
    even_grid(format)
    return quantize_on(x, _parts(grid, format, x.ndim), format)


def in_bits(grid: LearnedGrid, format: Format, bits: int) -> tuple[LearnedGrid, Format]:
    r"""The grid, and the format, in another number of bits.

    The scale becomes $s \sqrt{Q_P / Q_P'}$, which makes of the start of one that of the other. An
    asymmetric grid keeps its ends, $s \, Q_P / Q_P'$.

    Raises:
        ValueError: If `bits` is not 2 to 8, or the scales of the format cannot be learned.
    """
    other = replace(format, grid=replace(even_grid(format), bits=bits))
    ratio = _largest_code(format) / _largest_code(other)
    factor = np.float32(np.sqrt(ratio) if format.grid.symmetric else ratio)
    return grid._replace(scale=grid.scale * factor), other


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _round(x: Array, grid: LearnedGrid, format: Format) -> Array:
    fit = read(_parts(grid, format, x.ndim))
    blocks = split(x.astype(jnp.float32), format)
    values = format.grid.decode(format.grid.encode(blocks, fit), fit)
    return join(values.astype(x.dtype), x, format)


@_round.defjvp
def _round_jvp(format, primals, tangents):
    (x, grid), (moved, grid_moved) = primals, tangents
    fit = read(_parts(grid, format, x.ndim))
    blocks = split(x.astype(jnp.float32), format)
    inside, by_scale = _slopes(blocks, fit, format)
    share = _gradient_scale(x.shape, format)
    steps = _per_block(jax.tree.map(lambda t: t * share, grid_moved), format, x.ndim)
    tangent = (
        jnp.where(inside, split(moved.astype(jnp.float32), format), 0) + by_scale * steps.scale
    )
    if steps.offset is not None:
        tangent = tangent + jnp.where(inside, 0, steps.offset)
    return _round(x, grid, format), join(tangent.astype(x.dtype), x, format)


def _slopes(x: Blocks, fit: Fit, format: Format) -> tuple[Bool[Array, "..."], Blocks]:
    """Whether a code lies within the grid, and the slope of its value in the scale."""
    grid = even_grid(format)
    shifted = x - fit.zero_point if grid.reach == "free" else x
    exact = shifted * reciprocal(fit.scale)
    zero = _zero_code(fit, format)
    inside = (exact + zero >= grid.lowest) & (exact + zero <= grid.highest)
    ends = grid.encode(x, fit) - (zero if grid.symmetric else 0.0)
    return inside, jnp.where(inside, grid.nearest(x, fit) - zero - exact, ends)


def _zero_code(fit: Fit, format: Format) -> Blocks | float:
    if format.grid.symmetric:
        return 2.0 ** (format.grid.bits - 1)
    return 0.0 if format.grid.reach == "free" else fit.zero_point


def _largest_code(format: Format) -> int:
    """Q_P: codes from zero to the end of a symmetric grid, from end to end of another."""
    grid = even_grid(format)
    return grid.highest - (2 ** (grid.bits - 1) if grid.symmetric else 0)


def _gradient_scale(shape: tuple[int, ...], format: Format) -> Float[Array, "..."]:
    """g of each block: an array of the rank of `shape`, to be broadcast to the scales."""
    sizes, entries = dict(format.groups(shape)), np.ones((1,) * len(shape))
    for axis in format.axes(len(shape)):
        size = sizes.get(axis, max(1, shape[axis]))
        ends = np.minimum(np.arange(size, shape[axis] + size, size), shape[axis])
        here = [-1 if i == axis else 1 for i in range(len(shape))]
        entries = entries * np.diff(ends, prepend=0).reshape(here)
    return jnp.asarray(1 / np.sqrt(np.maximum(entries, 1) * _largest_code(format)), jnp.float32)


def _mean_magnitude(x: Blocks, axes: tuple[int, ...]) -> Blocks:
    count = jnp.sum(x != 0, axes, keepdims=True, dtype=jnp.float32)
    total = jnp.sum(jnp.abs(x), axes, keepdims=True)
    overall = jnp.sum(total) / jnp.maximum(jnp.sum(count), 1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), overall)


def _parts(grid: LearnedGrid, format: Format, ndim: int) -> Parts:
    scale, low = _per_block(grid, format, ndim)
    scale = round_scale(scale, format.scale_dtype)
    if low is None:
        return Parts(scale, None, None)
    if format.grid.reach == "free":
        low = round_minimum(low, format.scale_dtype)
    return Parts(scale, format.grid.fit(low, scale).zero_point, None)


def _per_block(grid: LearnedGrid, format: Format, ndim: int) -> LearnedGrid:
    axes = _group_axes(format, ndim)
    return jax.tree.map(lambda each: jnp.expand_dims(each, axes), grid)


def _group_axes(format: Format, ndim: int) -> tuple[int, ...]:
    return () if format.group_size is None else reduced(format, ndim)
