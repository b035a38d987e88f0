"""What an initializer is: `(key, shape, dtype=float32) -> array`, drawn wide and rounded once."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array

Key: TypeAlias = Any  # a PRNG key, typed or raw
Scalar: TypeAlias = int | float | Array
Draw: TypeAlias = Callable[[Key, tuple[int, ...], Any], Array]


@runtime_checkable
class Initializer(Protocol):
    """Draws a new array; the same key, shape and dtype give the same values."""

    def __call__(self, key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array: ...


def drawn(draw: Draw) -> Initializer:
    """Lets `draw` work in float32 (float64 for float64) and rounds to the dtype asked for.

    Sampling in bfloat16 itself has 256 distinct values and no tail beyond 2.7 σ, and QR does
    not exist there.
    """

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"Random weights are real floating-point numbers, got {jnp.dtype(dtype)}: "
                "use zeros, ones or constant, or leave this leaf alone."
            )
        return draw(key, tuple(shape), wide(dtype)).astype(dtype)

    return init


def wide(dtype: Any) -> Any:
    """What weights of this dtype are computed in: float32, or float64 for float64."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def check_positive(name: str, value: Any) -> None:
    """Raises unless a concrete number is positive and finite; traced values pass."""
    if isinstance(value, int | float) and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}; for zeros use `zeros`.")
