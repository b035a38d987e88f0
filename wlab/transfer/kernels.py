"""Factors folded into a kernel, and taken out of it again. Arrays in, arrays out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.transfer.adapter import Adapter
from wlab.transfer.axes import Factors, Layout, apart, beside, lengths, product, wide
from wlab.transform import Key


def fresh_factors(key: Key, kernel: Float[Array, "..."], adapter: Adapter) -> Factors:
    """The factors an adapter of this kernel starts with, without the lengths of DoRA.

    Raises:
        ValueError: If the kernel does not have the adapter's axes, or no such rank.
    """
    kernel = jnp.asarray(kernel)
    factors = adapter.start(key, kernel, adapter.layout(kernel.shape), adapter.scale)
    dtype = kernel.dtype if adapter.dtype is None else adapter.dtype
    return jax.tree.map(lambda factor: factor.astype(dtype), factors)


def with_magnitude(base: Float[Array, "..."], factors: Factors, adapter: Adapter) -> Factors:
    r"""Adds the lengths that DoRA trains, $m = \lVert W + s A B\rVert$ for each output.

    Reference:
        Liu et al. 2024 (arXiv:2402.09353), section 4.1.
    """
    at = adapter.layout(base.shape)
    m = apart(lengths(_sum(base, factors, adapter, at), at), at)
    return factors._replace(m=m.astype(factors.a.dtype))


def merged_kernel(
    base: Float[Array, "*shape"], factors: Factors, adapter: Adapter
) -> Float[Array, "*shape"]:
    r"""$W + s A B$; with lengths m (DoRA), $m\,(W + s A B) / \lVert W + s A B\rVert$ an output.

    Added up in float32 and rounded once, to the dtype of the base. The denominator of DoRA is a
    constant to the gradient, as its authors advise. An output all of whose weights are zero
    stays zero.

    Reference:
        Hu et al. 2021 (arXiv:2106.09685), equation 3; Liu et al. 2024 (arXiv:2402.09353),
        equation 5 and section 4.3.
    """
    at = adapter.layout(base.shape)
    kernel = _sum(base, factors, adapter, at)
    if factors.m is not None:
        length = jax.lax.stop_gradient(lengths(kernel, at))
        m = _lying_as(beside(factors.m.astype(kernel.dtype), at), length)
        kernel = kernel * (m / jnp.where(length > 0, length, 1))
    return kernel.astype(base.dtype)


def unmerged_kernel(
    kernel: Float[Array, "*shape"], factors: Factors, adapter: Adapter
) -> Float[Array, "*shape"]:
    """$W - s A B$: the base again, up to the rounding of `merged_kernel`.

    Raises:
        ValueError: With DoRA's lengths: what the base's were is not in the merged kernel.
    """
    if factors.m is not None:
        raise ValueError(
            "unmerged_kernel: the lengths of the base under DoRA cannot be told from the merged "
            "kernel. Keep the base: it is in the transform's state."
        )
    return _sum(kernel, factors, adapter, adapter.layout(kernel.shape), -1).astype(kernel.dtype)


def _sum(
    base: Float[Array, "..."], factors: Factors, adapter: Adapter, at: Layout, sign: int = 1
) -> Float[Array, "..."]:
    change = product(factors, at, like=base)
    return base.astype(wide(base.dtype)) + sign * adapter.scale * change


def _lying_as(x: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` on an Explicit mesh where `like` is."""
    place = jax.typeof(like).sharding
    return x if jax.typeof(x).sharding.spec == place.spec else jax.sharding.reshard(x, place)
