"""Part of what a model changed: its largest entries, or some drawn at random."""

from fractions import Fraction
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt

Key: TypeAlias = Any  # a typed PRNG key


def trim(delta: Float[Array, "*shape"], density: float) -> Float[Array, "*shape"]:
    """Zeroes all but the `num_kept` largest magnitudes; ties go to the lower flat index.

    Raises:
        ValueError: If the density is outside (0, 1].
    """
    k = num_kept(delta.size, density)
    if k == delta.size:
        return delta
    bits = _bits(jnp.abs(delta).ravel())
    threshold = _kth_largest(bits, k)
    above, equal = bits > threshold, bits == threshold
    keep = above | (equal & (jnp.cumsum(equal) <= k - jnp.count_nonzero(above)))
    return jnp.where(keep.reshape(delta.shape), delta, 0)


def drop(delta: Float[Array, "*shape"], density: float, key: Key) -> Float[Array, "*shape"]:
    """Keeps each entry with the probability `density`, divided by it; the others become zero.

    Raises:
        ValueError: If the density is outside (0, 1].
    """
    refuse_bad_density(density)
    keep = jax.random.bernoulli(key, density, delta.shape)
    return jnp.where(keep, delta / density, 0)


def num_kept(size: int, density: float) -> int:
    """`size · density` rounded half up in integers, but never 0 unless the leaf is empty.

    Rounding down alone would let a short bias lose all that it learned.

    Raises:
        ValueError: If the density is outside (0, 1].
    """
    refuse_bad_density(density)
    rounded = int(size * Fraction(str(density)) + Fraction(1, 2))
    return min(size, max(rounded, 1))


def refuse_bad_density(density: float) -> None:
    """Raises a ValueError unless the density is in (0, 1]."""
    if not 0 < density <= 1:
        raise ValueError(
            f"merge: the density is the fraction kept, in (0, 1]; got {density}. To change "
            "nothing, keep the base by a rule (path, None)."
        )


def _bits(sizes: Float[Array, "..."]) -> UInt[Array, "..."]:
    """Unsigned integers in the order of floats that are not negative, subnormals too."""
    return jax.lax.bitcast_convert_type(sizes, f"uint{8 * sizes.dtype.itemsize}")


def _kth_largest(bits: UInt[Array, " size"], k: int) -> UInt[Array, ""]:
    # Sets one bit after another and counts the entries that reach it: less work than a sort.
    # An eager loop: a compiled one would be compiled anew for every leaf.
    found = jnp.array(0, bits.dtype)
    for i in reversed(range(8 * bits.dtype.itemsize - 1)):  # the sign is never set
        higher = found | jnp.array(1 << i, bits.dtype)
        found = jnp.where(jnp.count_nonzero(bits >= higher) >= k, higher, found)
    return found
