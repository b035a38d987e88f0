"""The straight line between two networks, and what stands in the way on it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.merging.arrays import linear
from wlab.transform import Params


def along(
    measure: Callable[[Params], Float[Array, ""]], one: Params, other: Params, *, points: int = 30
) -> Float[Array, "points"]:
    """A measure of (1 − α) · one + α · other, at evenly spaced α from 0 to 1.

    Both ends are measured as they are. Runs under jit and vmap; a point is in memory at a time.

    Args:
        measure: Of a network's weights: an error or a loss.
        one: At α = 0.
        other: At α = 1; the same leaves.
        points: How many, with both ends.

    Raises:
        ValueError: If there are fewer than 2 points, or the trees differ in a leaf or its shape.
    """
    if points < 2:
        raise ValueError(f"along: a line has 2 ends, got points={points}.")
    leaves, ends = tree.leaves(one), tree.leaves(other)
    if {p: jnp.shape(x) for p, x in leaves.items()} != {p: jnp.shape(x) for p, x in ends.items()}:
        raise ValueError("along: the two networks differ in their leaves, or in a leaf's shape.")

    def at(alpha: Float[Array, ""]) -> Float[Array, ""]:
        mixed = {path: linear([leaves[path], ends[path]], [1 - alpha, alpha]) for path in leaves}
        return measure(tree.replace(one, mixed))

    return jax.lax.map(at, jnp.linspace(0, 1, points))


def barrier(values: Float[Array, "points"]) -> Float[Array, ""]:
    """How far the highest point of a line rises above the mean of its ends.

    Of the error of two networks that differ in the order of their examples alone this is the
    instability of where they began; two networks with none are linearly connected.

    Reference:
        Frankle et al. 2020 (arXiv:1912.05671), section 2.
    """
    return jnp.max(values) - (values[0] + values[-1]) / 2
