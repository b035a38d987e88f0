"""Orthogonal kernels: every singular value is the gain, at any depth."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab.initializers.fans import Axes, Layout, from_matrix, layout
from wlab.initializers.initializer import Initializer, Key, Scalar, check_positive, drawn


def orthogonal(*, gain: Scalar = 1.0, **axes: Unpack[Axes]) -> Initializer:
    """Draws kernels that are, as (receptive · in, out) matrices, uniformly orthogonal.

    Rows or columns, whichever are fewer, are orthonormal times `gain`. Stacked layers
    (`batch_axis`) are orthogonal each on its own.

    Args:
        gain: The singular values.
        axes: See `Axes`.

    Raises:
        ValueError: If `gain` is not positive; from the initializer, if the shape does not
            have the declared axes.

    Reference:
        Saxe, McClelland & Ganguli 2014 (arXiv:1312.6120); uniform by Mezzadri 2007
        (arXiv:math-ph/0609050).
    """
    check_positive("orthogonal: gain", gain)

    def draw(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        at = layout(shape, **axes)
        return gain * from_matrix(_orthonormal(key, at.matrix_shape, dtype), at)

    return drawn(draw)


def delta_orthogonal(*, gain: Scalar = 1.0, **axes: Unpack[Axes]) -> Initializer:
    """Draws convolutions that are an orthogonal matrix at the middle tap, zero elsewhere.

    With equal padding and stride 1 such a layer multiplies the norm of its input by `gain`.
    The middle of an even length k is tap (k − 1)//2.

    Args:
        gain: The singular values.
        axes: See `Axes`; what is left is the receptive field, of any rank.

    Raises:
        ValueError: If `gain` is not positive; from the initializer, if there are more inputs
            than outputs, which no isometry can have, or the declared axes are not there.

    Reference:
        Xiao et al. 2018 (arXiv:1806.05393).
    """
    check_positive("delta_orthogonal: gain", gain)

    def draw(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        at = layout(shape, **axes)
        batch, _, num_out = at.matrix_shape
        num_in = int(np.prod(at.sizes(at.inputs)))
        if num_in > num_out:
            raise ValueError(
                f"delta_orthogonal: shape {shape} has {num_in} inputs and {num_out} outputs; "
                "it needs at least as many outputs. Use orthogonal, or check the axes."
            )
        middle = _orthonormal(key, (batch, num_in, num_out), dtype)[:, None]
        kernel = jnp.where(_middle_tap(at)[None, :, None, None], middle, 0)
        return gain * from_matrix(kernel.reshape(at.matrix_shape), at)

    return drawn(draw)


def _middle_tap(at: Layout) -> np.ndarray:
    """True at the middle of the receptive field, flattened."""
    sizes = at.sizes(at.receptive)
    taps = np.zeros(sizes, bool)
    taps[tuple((size - 1) // 2 for size in sizes)] = True
    return taps.ravel()


def _orthonormal(
    key: Key, shape: tuple[int, int, int], dtype: Any
) -> Float[Array, "batch rows columns"]:
    batch, rows, columns = shape
    tall = jax.random.normal(key, (batch, max(rows, columns), min(rows, columns)), dtype)
    q, r = jnp.linalg.qr(tall)
    # QR alone is not uniform: its signs follow the algorithm, so take them from r.
    q = jnp.where(jnp.diagonal(r, axis1=1, axis2=2)[:, None] < 0, -q, q)
    return q if rows >= columns else q.transpose(0, 2, 1)
