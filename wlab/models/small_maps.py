"""Convolutions of maps that may be smaller than the kernel."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def with_zeros(
    maps: Float[Array, "batch height width channels"], sides: Sequence[tuple[int, int]]
) -> Float[Array, "batch _height _width channels"]:
    """The maps with zeros above and below, left and right of them; less of them where negative.

    For maps that are smaller than the kernel. XLA would let them change places, and has no fast
    convolution for that on CPUs: 2 × 2 maps of 512 channels took 50 times as long as if the zeros
    are written out before.
    """
    pads = [(before, after, 0) for before, after in ((0, 0), *sides, (0, 0))]
    filled = jax.lax.pad(maps, jnp.zeros((), maps.dtype), pads)
    return jax.lax.optimization_barrier(filled)  # else XLA pads by itself again


def convolved(
    conv: nnx.Conv, maps: Float[Array, "batch height width _channels"]
) -> Float[Array, "batch height width _outputs"]:
    """What a convolution of stride 1 and no padding finds with zeros around the maps.

    As padding "SAME", but fast where maps are smaller than the kernel. (Their gradients are not.)
    """
    sides = [((k - 1) // 2, k // 2) for k in conv.kernel_size]
    if any(n < k for n, k in zip(maps.shape[1:3], conv.kernel_size, strict=True)):
        return conv(with_zeros(maps, sides))
    return conv(jnp.pad(maps, ((0, 0), *sides, (0, 0))))
