"""How many weights a density keeps: computed in integers, never as a float product."""

from fractions import Fraction
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int32, UInt32

Density: TypeAlias = Any  # a fraction kept, in [0, 1]: a number or a JAX scalar
Count: TypeAlias = int | Int32[Array, ""]


def kept(size: int, density: Density) -> Count:
    """Rounds `size · density` half up to an integer.

    A number means the decimal that is written: `kept(10, 0.15)` is 2, although the float 0.15
    is a little less. A JAX scalar, traced or not, is clipped to [0, 1] and read as float32.

    Raises:
        ValueError: If a number is outside [0, 1].
    """
    if isinstance(density, jax.Array):
        return _rounded(size, jnp.clip(density, 0, 1).astype(jnp.float32))
    refuse_bad_density(density)
    return int(size * Fraction(str(density)) + Fraction(1, 2))


def refuse_bad_density(density: Density, name: str = "density") -> None:
    """Raises a ValueError if a concrete density is outside [0, 1]; a traced one passes."""
    if not isinstance(density, Tracer) and not 0 <= float(density) <= 1:
        raise ValueError(f"The {name} is the fraction kept, in [0, 1]; got {density}.")


def _rounded(size: int, density: Float[Array, ""]) -> Int32[Array, ""]:
    """The upper word of the 64-bit product size · (density · 2³²), from 16-bit digits."""
    high, low = (jnp.uint32(digit) for digit in divmod(size, 1 << 16))
    # A density of 1 does not fit into the word; its product needs no rounding.
    whole = density >= 1
    word: UInt32[Array, ""] = (jnp.where(whole, 0.0, density) * 2.0**32).astype(jnp.uint32)
    upper, lower = word >> 16, word & 0xFFFF
    carry = high * lower + (low * lower >> 16)
    middle = low * upper + (carry & 0xFFFF)
    product = high * upper + (carry >> 16) + (middle >> 16)
    half = middle >> 15 & 1
    return jnp.where(whole, size, (product + half).astype(jnp.int32))
