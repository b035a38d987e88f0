"""Initializers that do not look at fans: constants, plain distributions, sparse rows."""

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab.initializers.fans import Axes, from_matrix, layout
from wlab.initializers.initializer import Initializer, Key, Scalar, check_positive, drawn

# Standard deviation of N(0, 1) cut off at ±2.
TRUNCATED_STD = 0.87962566103423978


def zeros(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """All zeros. For kernels that meet hidden units it keeps these identical for ever."""
    del key
    return jnp.zeros(shape, dtype)


def ones(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """All ones, for scales."""
    del key
    return jnp.ones(shape, dtype)


def constant(value: Scalar) -> Initializer:
    """Every entry is `value`."""

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        return jnp.full(shape, value, dtype)

    return init


def normal(std: Scalar = 0.01) -> Initializer:
    """Draws from N(0, std²).

    Raises:
        ValueError: If `std` is not positive.
    """
    check_positive("normal: std", std)
    return drawn(lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype))


def truncated_normal(std: Scalar = 0.01) -> Initializer:
    """Draws from a normal cut off at twice its own deviation, so that the result has `std`.

    The cut costs a factor 0.8796 of the deviation, which is divided out: the entries reach
    to ±2.27 std.

    Raises:
        ValueError: If `std` is not positive.
    """
    check_positive("truncated_normal: std", std)
    return drawn(
        lambda key, shape, dtype: (
            std / TRUNCATED_STD * jax.random.truncated_normal(key, -2, 2, shape, dtype)
        )
    )


def uniform(limit: Scalar = 0.01) -> Initializer:
    """Draws from U(-limit, limit), whose deviation is limit/√3.

    Raises:
        ValueError: If `limit` is not positive.
    """
    check_positive("uniform: limit", limit)
    return drawn(lambda key, shape, dtype: limit * jax.random.uniform(key, shape, dtype, -1, 1))


def sparse(density: float, *, std: Scalar = 0.01, **axes: Unpack[Axes]) -> Initializer:
    """Gives every output the same number of incoming weights, from N(0, std²), zero elsewhere.

    `max(1, round(density · fan_in))` inputs, chosen at random for each output, are connected.

    Args:
        density: Fraction of the incoming weights that is not zero, in (0, 1].
        std: Of the weights that are not zero.
        axes: See `Axes`.

    Raises:
        ValueError: If `density` is not in (0, 1] or `std` not positive.

    Reference:
        Martens 2010, Deep learning via Hessian-free optimization.
    """
    if not 0 < density <= 1:
        raise ValueError(f"sparse: density is the fraction kept, in (0, 1], got {density}.")
    check_positive("sparse: std", std)

    def draw(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        at = layout(shape, **axes)
        key_w, key_order = jax.random.split(key)
        _, rows, _ = at.matrix_shape
        order = jnp.argsort(jax.random.uniform(key_order, at.matrix_shape), axis=1)
        kept = jnp.argsort(order, axis=1) < max(1, round(density * rows))
        weights = std * jax.random.normal(key_w, at.matrix_shape, dtype)
        return from_matrix(jnp.where(kept, weights, 0), at)

    return drawn(draw)
