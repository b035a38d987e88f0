"""Whole numbers near a number: three rules for halves, and rounding by chance.

No product may meet a sum here: the compiler would fuse the two, round once instead of twice, and
give another answer than the same steps one by one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ROUNDINGS = ("half_even", "half_away", "half_up")
CHANCES = 1 << 16  # a fraction is drawn to 16 bits


def rounded(
    y: Float[Array, "..."], rounding: str, noise: Int[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """The nearest whole number; with noise, one of the two next to y, the nearer more often.

    Args:
        y: Numbers; whole ones, NaN and infinities stay.
        rounding: What happens to halves: "half_even", "half_away" (from zero) or "half_up".
        noise: Whole numbers from 0 to 65,535; y rounds up where they are below its fraction,
            taken to 16 bits: unbiased to 2^-17 of a step.
    """
    if noise is not None:
        return _by_chance(y, noise)
    if rounding == "half_even":
        return jnp.round(y)
    if rounding == "half_up":
        return _half_up(y)
    return jnp.copysign(_half_up(jnp.abs(y)), y)


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """What `rounded` takes for noise: 16 random bits an entry."""
    return jax.random.bits(key, shape, jnp.uint16).astype(jnp.int32)


def _half_up(y: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.floor((jnp.floor(y * 2) + 1) * 0.5)


def _by_chance(y: Float[Array, "..."], noise: Int[Array, "..."]) -> Float[Array, "..."]:
    fixed = jnp.round(jnp.clip(y, -32767, 32767) * CHANCES).astype(jnp.int32)
    whole = (fixed >> 16) + jnp.where(noise < (fixed & (CHANCES - 1)), 1, 0)
    small = jnp.abs(y) < 32767
    return jnp.where(small, whole.astype(jnp.float32), jnp.round(y))
