"""How the factors of an adapter begin: `(key, kernel, layout, scale) -> Factors`.

Whatever they are, the frozen base is what they leave of the kernel, W − s A B. So a fresh adapter
changes nothing: exactly where one factor is zero, up to rounding for `pissa`.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from wlab.transfer.axes import Factors, Layout, matrices, wide
from wlab.transform import Key

Start: TypeAlias = Callable[[Key, Float[Array, "..."], Layout, float], Factors]


def he_uniform(key: Key, kernel: Float[Array, "..."], at: Layout, scale: float) -> Factors:
    r"""A is drawn from $U(\pm 1/\sqrt{\mathrm{fan\_in}})$, B is zero.

    This is the He-uniform draw with a leak of √5, the habit of linear layers in PyTorch.

    Reference:
        Hu et al. 2021 (arXiv:2106.09685), section 4.1, with the draw of its public code.
    """
    del scale
    bound = 1 / math.sqrt(at.fan_in)
    a = jax.random.uniform(key, at.a_shape, wide(kernel.dtype), -bound, bound)
    return Factors(a, jnp.zeros(at.b_shape, a.dtype))


def gaussian(key: Key, kernel: Float[Array, "..."], at: Layout, scale: float) -> Factors:
    r"""A is drawn from $N(0, 1/r^2)$, B is zero.

    Reference:
        Hu et al. 2021 (arXiv:2106.09685), section 4.1; the deviation 1/r is that of PEFT.
    """
    del scale
    a = jax.random.normal(key, at.a_shape, wide(kernel.dtype)) / at.rank
    return Factors(a, jnp.zeros(at.b_shape, a.dtype))


def embedding(key: Key, kernel: Float[Array, "..."], at: Layout, scale: float) -> Factors:
    """A is zero, B is drawn from N(0, 1): for tables, whose rows (the inputs) are looked up.

    With A zero, the row of a token that never occurs never moves.

    Reference:
        Hu et al. 2021 (arXiv:2106.09685), the embedding layer of its public code.
    """
    del scale
    b = jax.random.normal(key, at.b_shape, wide(kernel.dtype))
    return Factors(jnp.zeros(at.a_shape, b.dtype), b)


def pissa(key: Key, kernel: Float[Array, "..."], at: Layout, scale: float) -> Factors:
    r"""A and B are the principal part of the kernel, so the residual is what is frozen.

    $W = U S V^T$, $A = U_{:r}\sqrt{S_{:r}/s}$, $B = \sqrt{S_{:r}/s}\,V_{:r}^T$, in float32. The
    largest entry of each column of U is positive, so every device begins with the same factors.
    The kernel is then seen again up to one rounding of base and sum: in float32 to 2⁻²³ of its
    largest entry, in bfloat16 to 2⁻⁸ of it.

    Reference:
        Meng et al. 2024 (arXiv:2404.02948), equations 2 to 4.
    """
    del key
    matrix = matrices(_whole(kernel).astype(wide(kernel.dtype)), at)
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    roots = jnp.sqrt(values / scale) * _signs(left)
    a = (left * roots[..., None, :])[..., : at.rank]
    b = (roots[..., :, None] * right)[..., : at.rank, :]
    return Factors(a.reshape(at.a_shape), b.reshape(at.b_shape))


def _signs(left: Float[Array, "... rows k"]) -> Float[Array, "... k"]:
    """-1 for each column whose largest entry is negative; the sign is up to the library."""
    place = jnp.argmax(jnp.abs(left), axis=-2, keepdims=True)
    largest = jnp.take_along_axis(left, place, axis=-2)[..., 0, :]
    return jnp.where(largest < 0, -1, 1).astype(left.dtype)


def _whole(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gathers a kernel that explicit mesh axes shard: a decomposition needs all of it."""
    place = jax.typeof(kernel).sharding
    if AxisType.Explicit not in place.mesh.axis_types:
        return kernel
    return jax.sharding.reshard(kernel, PartitionSpec())
