"""Quantize, dequantize, and round to the grid with a gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.quantization.blocks import join, reduced, split
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.grids import Blocks, Fit
from wlab.quantization.packing import pack, unpack
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax

GRADIENTS = ("pass_through", "clipped")


def quantize(x: Float[Array, "*shape"], format: Format, *, range_fn: RangeFn = absmax) -> QTensor:
    r"""Writes each weight as the nearest code of its block's grid.

    $q = \mathrm{clip}(\lfloor w / s \rceil + z)$, in float32 whatever the dtype. Zero stays
    exactly zero. A NaN or an infinity makes its whole block NaN.

    Args:
        x: The array; on an Explicit mesh its sharding is kept.
        format: The grid, the blocks and the scale's dtype.
        range_fn: Where the grid of each block ends: `absmax`, or `mse()`.

    Raises:
        TypeError: If x is not floating point.
        ValueError: If x lacks the format's axis.
    """
    check_leaf(x, format)
    blocks, fit = _fit(x, format, range_fn)
    codes = join(_to_uint8(format.grid.encode(blocks, fit)), x, format)
    group = () if format.group_size is None else reduced(format, x.ndim)
    scale, zero_point = jax.tree.map(lambda per_block: jnp.squeeze(per_block, group), fit)
    return QTensor(
        codes=pack(codes, format.grid.bits),
        scale=scale.astype(format.scale_dtype),
        zero_point=None if zero_point is None else _to_uint8(zero_point),
        format=format,
        length=x.shape[-1],
        dtype=x.dtype.name,
    )


def dequantize(q: QTensor) -> Float[Array, "..."]:
    """The array that the codes stand for, in the dtype it had: (q − z) · s."""
    codes = unpack(q.codes, q.format.grid.bits, q.length)
    group = () if q.format.group_size is None else reduced(q.format, codes.ndim)
    fit = jax.tree.map(
        lambda stored: jnp.expand_dims(stored, group).astype(jnp.float32),
        Fit(q.scale, q.zero_point),
    )
    values = q.format.grid.decode(split(codes, q.format).astype(jnp.float32), fit)
    return join(values.astype(q.dtype), codes, q.format)


def round_to_grid(
    x: Float[Array, "*shape"],
    format: Format,
    *,
    gradient: str = "pass_through",
    range_fn: RangeFn = absmax,
) -> Float[Array, "*shape"]:
    """Rounds each weight to its grid: bit for bit `dequantize(quantize(x))`, with a gradient.

    The rounding is a staircase; its derivative is replaced, in forward and reverse mode, by 1
    ("pass_through"), or by 1 where the code does not saturate and 0 elsewhere ("clipped").
    The range is taken as a constant.

    Raises:
        TypeError: If x is not floating point.
        ValueError: If x lacks the format's axis, or the gradient has another name.

    Reference:
        Bengio, Léonard, Courville 2013 (arXiv:1308.3432), the straight-through estimator.
    """
    check_leaf(x, format)
    check_gradient(gradient)
    return _round(x, format, range_fn, gradient)


def check_gradient(gradient: str) -> None:
    """Raises unless there is a gradient rule of this name.

    Raises:
        ValueError: Naming those there are.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {GRADIENTS}, got {gradient!r}.")


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _round(x: Array, format: Format, range_fn: RangeFn, gradient: str) -> Array:
    blocks, fit = _fit(x, format, range_fn)
    return _nearest_values(x, blocks, fit, format)


@_round.defjvp
def _round_jvp(format, range_fn, gradient, primals, tangents):
    (x,), (tangent,) = primals, tangents
    blocks, fit = _fit(x, format, range_fn)
    if gradient == "clipped":
        covered = join(format.grid.covers(blocks, fit), x, format)
        tangent = jnp.where(covered, tangent, 0)
    return _nearest_values(x, blocks, fit, format), tangent


def _fit(x: Array, format: Format, range_fn: RangeFn) -> tuple[Blocks, Fit]:
    blocks = split(x.astype(jnp.float32), format)
    low, high = range_fn(blocks, reduced(format, x.ndim), format)
    return blocks, format.fit(low, high)


def _nearest_values(x: Array, blocks: Blocks, fit: Fit, format: Format) -> Array:
    values = format.grid.decode(format.grid.encode(blocks, fit), fit)
    return join(values.astype(x.dtype), x, format)


def _to_uint8(codes: Blocks) -> Array:
    """By way of int32, where NaN becomes 0 on every backend."""
    return codes.astype(jnp.int32).astype(jnp.uint8)
