"""How AlexNet and VGG end: maps averaged to a grid of cells, then dense layers."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.layers import Linear


class Dense(nnx.Module):
    """Maps to vectors: the cells row by row, channels last, through layers with ReLU.

    Args:
        inputs: Channels of the maps.
        widths: Outputs of each layer.
        side: Cells along height and along width.
        linear: Makes a layer.
        norm: Makes a norm between layer and ReLU; None for none.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        side: int,
        linear: Linear,
        norm: Callable[[int], nnx.BatchNorm] | None = None,
    ):
        self.side, self.count, self.normed = side, len(widths), norm is not None
        inputs *= side**2
        for i, width in enumerate(widths, start=1):
            setattr(self, f"linear_{i}", linear(inputs, width))
            if norm is not None:
                setattr(self, f"norm_{i}", norm(width))
            inputs = width
        self.outputs = inputs

    def __call__(
        self, maps: Float[Array, "batch _height _width _channels"]
    ) -> Float[Array, "batch width"]:
        x = averaged(maps, self.side).reshape(maps.shape[0], -1)
        for i in range(1, self.count + 1):
            x = getattr(self, f"linear_{i}")(x)
            x = jax.nn.relu(getattr(self, f"norm_{i}")(x) if self.normed else x)
        return x


def averaged(
    maps: Float[Array, "batch _height _width channels"], side: int
) -> Float[Array, "batch {side} {side} channels"]:
    r"""Means over a grid of cells, whatever the size of the maps.

    Cell $i$ of $k$ along $n$ pixels covers $\lfloor in/k \rfloor$ up to, not including,
    $\lceil (i+1)n/k \rceil$: cells overlap where $k$ does not divide $n$, as in PyTorch.
    """
    height, width = maps.shape[1:3]
    if (height, width) == (side, side):
        return maps
    rows, columns = (jnp.asarray(_cells(n, side), maps.dtype) for n in (height, width))
    return jnp.einsum("bhwc,ih,jw->bijc", maps, rows, columns, precision="highest")


def _cells(pixels: int, count: int) -> np.ndarray:
    """Each cell's share of each pixel."""
    shares = np.zeros((count, pixels))
    for i in range(count):
        start, end = i * pixels // count, -(-(i + 1) * pixels // count)
        shares[i, start:end] = 1 / (end - start)
    return shares
