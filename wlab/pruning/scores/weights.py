"""Scores that look at the weights alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.pruning.scores.score import Score, floats
from wlab.transform import Key, Params


def magnitude(params: Params) -> dict[str, Float[Array, "..."]]:
    """|w|."""
    return {path: jnp.abs(leaf) for path, leaf in floats(params).items()}


def random(key: Key) -> Score:
    """A number by chance: the control of every score.

    Args:
        key: Folded with the path of each leaf, so that a leaf's scores do not depend on others.
    """

    def score(params: Params) -> dict[str, Float[Array, "..."]]:
        return {
            path: jax.random.uniform(tree.path_key(key, path), leaf.shape)
            for path, leaf in floats(params).items()
        }

    return score


def lamp(params: Params) -> dict[str, Float[Array, "..."]]:
    """A weight's square as a part of the squares, in its leaf, that are not smaller: LAMP.

    s_u = w_u² / Σ_{v ≥ u} w_v², of weights in rising order of |w|. Within a leaf it ranks as
    magnitude does; between leaves, with `globally`, it sets the density of each: the largest of a
    leaf scores 1, so that no leaf is emptied. Leaves are sorted, each on one device.

    Reference:
        Lee et al. 2021 (arXiv:2010.07611).
    """
    return {path: _lamp(leaf) for path, leaf in floats(params).items()}


def _lamp(leaf: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # Over the largest, that the squares of small leaves do not vanish in float32.
    sizes = jnp.abs(leaf.astype(jnp.float32)).reshape(-1)
    squares = jnp.square(sizes / jnp.maximum(jnp.max(sizes, initial=0.0), 1e-30))
    order = jnp.argsort(squares)
    rising = squares[order]
    rest = jnp.cumsum(rising[::-1])[::-1]
    parts = jnp.where(rest > 0, rising / jnp.where(rest > 0, rest, 1), 0)
    return jnp.zeros_like(squares).at[order].set(parts).reshape(leaf.shape)
