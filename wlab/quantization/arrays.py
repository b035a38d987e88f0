"""Quantize, dequantize, and round to the grid with a gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from wlab.quantization.blocks import join, reduced, split
from wlab.quantization.fits import Fitted, Parts, fit, nearest_values, outer_scale, read
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.grids import Blocks
from wlab.quantization.packing import code_dtype, pack, unpack
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax
from wlab.quantization.rounding import random_bits
from wlab.quantization.scales import load, store

GRADIENTS = ("pass_through", "clipped")


def quantize(
    x: Float[Array, "*shape"],
    format: Format,
    *,
    range_fn: RangeFn = absmax,
    key: jax.Array | None = None,
) -> QTensor:
    r"""Writes each weight as the nearest code of its block's grid.

    $q = \mathrm{clip}(\lfloor w / s \rceil + z)$, in float32 whatever the dtype. Zero stays
    exactly zero where the grid has it. A NaN or an infinity makes its whole block NaN.

    Args:
        x: The array; on an Explicit mesh its sharding is kept.
        format: The grid, the blocks and the scale's dtype.
        range_fn: Where the grid of each block ends: `absmax`, `absmean` or `mse()`.
        key: Rounds by chance to one of the two grid points beside each weight, so that the
            mean is the weight; the nearest one if None.

    Raises:
        TypeError: If x is not floating point.
        ValueError: If x lacks the format's axis, or leaves a short last group to a grid that
            has no zero.
    """
    check_leaf(x, format)
    blocks, grids = fitted(x, format, range_fn)
    codes = format.grid.encode(blocks, grids.coding, _blocks_of(_noise(x, key), format))
    return _written(codes, grids.parts, x, format)


def quantize_on(x: Float[Array, "*shape"], parts: Parts, format: Format) -> QTensor:
    """Writes each weight as the nearest code of a grid that is given: its scales and zero points.

    Args:
        x: The array.
        parts: Of the grid, as `fitted` gives them.
        format: The format.
    """
    codes = format.grid.encode(split(x.astype(jnp.float32), format), read(parts))
    return _written(codes, parts, x, format)


def fitted(
    x: Float[Array, "*shape"], format: Format, range_fn: RangeFn, *, outer: Blocks | None = None
) -> tuple[Blocks, Fitted]:
    """The blocks of an array, and the grid of each; relative to `outer`, if that is given."""
    blocks = split(x.astype(jnp.float32), format)
    low, high = range_fn(blocks, reduced(format, x.ndim), format)
    outer = outer_scale(blocks, format) if outer is None else outer
    return blocks, fit(low, high, format, outer)


def _written(codes: Blocks, parts: Parts, x: Array, format: Format) -> QTensor:
    codes = join(_to_codes(codes, format.grid.bits), x, format)
    group = () if format.group_size is None else reduced(format, x.ndim)
    parts = jax.tree.map(lambda per_block: jnp.squeeze(per_block, group), parts)
    return QTensor(
        codes=pack(codes, format.grid.bits, format.order),
        scale=None if parts.scale is None else store(parts.scale, format.scale_dtype),
        zero_point=_stored_zero(parts.zero_point, format),
        format=format,
        length=x.shape[-1],
        dtype=x.dtype.name,
        outer=parts.outer,
    )


def dequantize(q: QTensor) -> Float[Array, "..."]:
    """The array that the codes stand for, in the dtype it had: (q − z) · s."""
    codes = unpack(q.codes, q.format.grid.bits, q.length, q.format.order)
    return decode(codes, q)


def decode(codes: Shaped[Array, "*shape"], q: QTensor) -> Float[Array, "*shape"]:
    """What codes stand for by the scales of a QTensor, whose own codes are not looked at."""
    format = q.format
    group = () if format.group_size is None else reduced(format, codes.ndim)
    scale = None if q.scale is None else load(q.scale, format.scale_dtype)
    parts = jax.tree.map(
        lambda stored: jnp.expand_dims(stored, group).astype(jnp.float32),
        Parts(scale, q.zero_point, q.outer),
    )
    values = format.grid.decode(split(codes, format).astype(jnp.float32), read(parts))
    return join(values.astype(q.dtype), codes, format)


def round_to_grid(
    x: Float[Array, "*shape"],
    format: Format,
    *,
    gradient: str = "pass_through",
    range_fn: RangeFn = absmax,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Rounds each weight to its grid: bit for bit `dequantize(quantize(x))`, with a gradient.

    A key rounds by chance, as in `quantize`.

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
    return _round(x, _noise(x, key), format, range_fn, gradient)


def check_gradient(gradient: str) -> None:
    """Raises unless there is a gradient rule of this name.

    Raises:
        ValueError: Naming those there are.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {GRADIENTS}, got {gradient!r}.")


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _round(
    x: Array, noise: Array | None, format: Format, range_fn: RangeFn, gradient: str
) -> Array:
    blocks, grids = fitted(x, format, range_fn)
    return _nearest_values(x, blocks, grids, format, noise)


@_round.defjvp
def _round_jvp(format, range_fn, gradient, primals, tangents):
    (x, noise), (tangent, _) = primals, tangents
    blocks, grids = fitted(x, format, range_fn)
    if gradient == "clipped":
        covered = join(format.grid.covers(blocks, grids.coding), x, format)
        tangent = jnp.where(covered, tangent, 0)
    return _nearest_values(x, blocks, grids, format, noise), tangent


def _nearest_values(
    x: Array, blocks: Blocks, grids: Fitted, format: Format, noise: Array | None
) -> Array:
    values = nearest_values(blocks, grids, format, _blocks_of(noise, format))
    return join(values.astype(x.dtype), x, format)


def _noise(x: Array, key: jax.Array | None) -> Array | None:
    return None if key is None else random_bits(key, x.shape)


def _blocks_of(noise: Array | None, format: Format) -> Array | None:
    return None if noise is None else split(noise, format)


def _stored_zero(zero_point: Blocks | None, format: Format) -> Array | None:
    if zero_point is None or format.grid.reach == "free":
        return None if zero_point is None else zero_point.astype(format.scale_dtype)
    return _to_codes(zero_point, 8)


def _to_codes(codes: Blocks, bits: int) -> Array:
    """By way of int32, where NaN becomes 0 on every backend."""
    return codes.astype(jnp.int32).astype(code_dtype(bits))
