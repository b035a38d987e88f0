"""Convolutions of maps that may be smaller than the kernel."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wlab.graph.convolving import with_zeros


def convolved(
    conv: nnx.Conv, maps: Float[Array, "batch height width _channels"]
) -> Float[Array, "batch height width _outputs"]:
    """What a convolution of stride 1 and no padding finds with zeros around the maps.

    As padding "SAME", but fast where maps are smaller than the kernel. Their gradients are by
    `graph.channels_last`, as in a train step.
    """
    sides = [((k - 1) // 2, k // 2) for k in conv.kernel_size]
    if any(n < k for n, k in zip(maps.shape[1:3], conv.kernel_size, strict=True)):
        return conv(with_zeros(maps, sides))
    return conv(jnp.pad(maps, ((0, 0), *sides, (0, 0))))
