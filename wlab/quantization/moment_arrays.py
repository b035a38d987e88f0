"""Arrays of moments, to codes and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from wlab.quantization.arrays import dequantize, fitted, quantize_on
from wlab.quantization.blocks import join, split
from wlab.quantization.fits import nearest_values
from wlab.quantization.grids import Blocks
from wlab.quantization.moment_grids import Moment
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import absmax
from wlab.quantization.rounding import random_bits


class Coded(NamedTuple):
    """What is kept of a moment: packed codes, and a scale for each block of the last axis."""

    codes: UInt8[Array, "*lead bytes"]
    scale: Float[Array, "*lead blocks"]


def quantize_moment(
    x: Float[Array, "*lead n"], moment: Moment, *, key: jax.Array | None = None
) -> Coded:
    r"""Writes each entry as the nearest code of its root.

    $u = \mathrm{sign}(x) \, |x|^{1/r}$ is rounded to the grid of its block. Zero stays exactly
    zero. Where there is no sign nothing else becomes zero: a second moment below the smallest
    code is raised to it, so that the step it divides gets smaller, never without bound; of those
    above, the root is rounded by at most half a step. What was read back is written as it was.
    A NaN, an infinity, or a negative number where there is no sign, makes its whole block NaN.

    Args:
        x: The moment.
        moment: How it is kept.
        key: Rounds the root by chance.
    """
    format = moment.format
    blocks, grids = fitted(_root(x.astype(jnp.float32), moment), format, absmax)
    if not moment.signed:
        least = jnp.asarray(grids.parts.scale) * np.float32(moment.least)
        blocks = jnp.where(blocks > 0, jnp.maximum(blocks, least), blocks)
    if key is not None:
        noise = split(random_bits(key, x.shape), format)
        blocks = nearest_values(blocks, grids, format, noise)
    q = quantize_on(join(blocks, x, format), grids.parts, format)
    return Coded(q.codes, q.scale)


def dequantize_moment(
    coded: Coded, moment: Moment, like: jax.ShapeDtypeStruct
) -> Float[Array, "..."]:
    """The moment that the codes stand for, of the length and dtype of `like`."""
    zero_point = None
    if not moment.format.grid.symmetric:  # of what is not negative it is always 0
        zero_point = jnp.zeros_like(coded.scale, dtype=jnp.uint8)
    q = QTensor(*coded, zero_point, moment.format, like.shape[-1], "float32")
    return _power(dequantize(q), moment.root).astype(like.dtype)


def _root(x: Blocks, moment: Moment) -> Blocks:
    if not moment.signed:
        x = jnp.where(x >= 0, x, jnp.nan)
    if moment.root == 1:
        return x
    root = jnp.sqrt(jnp.abs(x))
    root = root if moment.root == 2 else jnp.sqrt(root)
    return jnp.copysign(root, x) if moment.signed else root


def _power(u: Blocks, root: int) -> Blocks:
    """The root of each square is met exactly, so codes come back as they were."""
    if root == 1:
        return u
    square = u * jnp.abs(u)
    return square if root == 2 else square * jnp.abs(square)
