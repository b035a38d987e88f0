"""What a quantized leaf has lost: noise, the largest error, saturated codes, outliers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.quantization.arrays import dequantize
from wlab.quantization.blocks import join, reduced, split
from wlab.quantization.fits import Parts, read
from wlab.quantization.grids import Fit
from wlab.quantization.qtensor import QTensor
from wlab.quantization.report import sqnr
from wlab.quantization.scales import load

OUTLYING = 6.0  # standard deviations


class Quality(NamedTuple):
    """How a quantized array differs from the one it was made of.

    Attributes:
        sqnr_db: Signal to quantization noise, dB.
        largest_error: The largest |x − x̂|, in units of the weights.
        saturated: The fraction of entries beyond the ends of their grid.
        outliers: The fraction of entries more than 6 standard deviations from zero.
    """

    sqnr_db: Float[Array, ""]
    largest_error: Float[Array, ""]
    saturated: Float[Array, ""]
    outliers: Float[Array, ""]


def quality(x: Float[Array, "*shape"], q: QTensor) -> Quality:
    """Compares an array with what its codes stand for.

    Args:
        x: What there was.
        q: What became of it.
    """
    wide, rounded = x.astype(jnp.float32), dequantize(q).astype(jnp.float32)
    covered = join(q.format.grid.covers(split(wide, q.format), grid_of(q)), x, q.format)
    deviation = jnp.sqrt(jnp.mean(jnp.square(wide)))
    far = jnp.abs(wide) > OUTLYING * deviation
    return Quality(
        sqnr_db=sqnr(wide, rounded),
        largest_error=jnp.max(jnp.abs(wide - rounded)),
        saturated=jnp.mean((~covered).astype(jnp.float32)),
        outliers=jnp.mean(far.astype(jnp.float32)),
    )


def grid_of(q: QTensor) -> Fit:
    """The grid of each block, as what is stored describes it."""
    format = q.format
    group = () if format.group_size is None else reduced(format, len(q.shape))
    scale = None if q.scale is None else load(q.scale, format.scale_dtype)
    parts = Parts(scale, q.zero_point, q.outer)
    return read(jax.tree.map(lambda x: jnp.expand_dims(x, group).astype(jnp.float32), parts))
