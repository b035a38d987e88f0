"""One leaf of several models made one: weighted means, the arc between two, model stock.

Everything is added up in float32 (float64 for float64) and has the first leaf's dtype.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar: TypeAlias = float | int | Array  # a number or a JAX scalar, traced or not
Weights: TypeAlias = Scalar | Sequence[Scalar]  # one for all models, or one for each


def linear(
    leaves: Sequence[Float[Array, "*shape"]], weights: Weights = 1.0, *, normalize: bool = True
) -> Float[Array, "*shape"]:
    r"""The weighted mean $\sum_i w_i x_i / \sum_i w_i$, or the weighted sum.

    Equal to x_j if w_j is 1 and the others are 0. The mean of copies of a leaf is that leaf bit
    for bit in bfloat16 and float16, and of two copies in float32 too if nothing is subnormal;
    of more it may be off in the last bits.

    Args:
        leaves: The same leaf of each model.
        weights: One for all, or one for each model.
        normalize: Divide by the sum of the weights.

    Raises:
        ValueError: If `weights` has another length than `leaves`.

    Reference:
        Wortsman et al. 2022 (arXiv:2203.05482), the uniform soup for equal weights.
    """
    each = per_model(weights, len(leaves))
    total = sum(each) if normalize else 1.0
    shares = [weight / total for weight in each]
    return weighted_sum(widened(leaves), shares).astype(leaves[0].dtype)


def slerp(
    a: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    t: Scalar,
    *,
    parallel: float = 0.9995,
) -> Float[Array, "*shape"]:
    r"""The point at `t` on the arc from a to b, the leaf read as one vector.

    $\frac{\sin((1-t)\theta)}{\sin\theta} a + \frac{\sin(t\theta)}{\sin\theta} b$ with θ the angle
    between them; exactly a at 0 and b at 1. The straight line $(1-t) a + t b$ where the arc is
    not defined or not worth it: a vector of zeros, or $|\cos\theta|$ above `parallel`.

    Args:
        a: The leaf at t = 0.
        b: The leaf at t = 1.
        t: Where on the arc, from 0 to 1.
        parallel: The cosine from which on the line is taken; mergekit's value.

    Reference:
        Shoemake 1985, "Animating rotation with quaternion curves".
    """
    x, y = widened([a, b])
    cos = jnp.clip(cosine(x, y), -1, 1)
    is_straight = (jnp.abs(cos) > parallel) | (norm(x) == 0) | (norm(y) == 0)
    angle = jnp.arccos(cos)
    sine = jnp.where(is_straight, 1.0, jnp.sin(angle))
    of_a = jnp.where(is_straight, 1 - t, jnp.sin((1 - t) * angle) / sine)
    of_b = jnp.where(is_straight, t, jnp.sin(t * angle) / sine)
    return (of_a * x + of_b * y).astype(a.dtype)


def model_stock(
    base: Float[Array, "*shape"], leaves: Sequence[Float[Array, "*shape"]]
) -> Float[Array, "*shape"]:
    r"""The mean of the models drawn towards their base, the more so the less they agree.

    $t \bar x + (1-t) x_0$ with $t = N\cos\theta / ((N-1)\cos\theta + 1)$. θ is the angle between
    two models seen from the base; its cosine is averaged over the pairs, and an average below
    zero counts as zero, where the formula would leave the segment.

    Args:
        base: x₀, which all models were tuned from.
        leaves: The same leaf of N models, at least two.

    Raises:
        ValueError: If there are fewer than two models.

    Reference:
        Jang, Yun & Han 2024 (arXiv:2403.19522), the ratio for N models, by layer.
    """
    if len(leaves) < 2:
        raise ValueError(f"model_stock: two models or more span an angle, got {len(leaves)}.")
    origin, *models = widened([base, *leaves])
    deltas = [x - origin for x in models]
    count, cos = len(models), jnp.maximum(mean_cosine(deltas), 0)
    t = count * cos / ((count - 1) * cos + 1)
    mean = weighted_sum(models, [1 / count] * count)
    return (t * mean + (1 - t) * origin).astype(leaves[0].dtype)


def mean_cosine(vectors: Sequence[Float[Array, "..."]]) -> Float[Array, ""]:
    """The cosine of the angle between two of the arrays, averaged over all pairs."""
    return jnp.mean(jnp.stack([cosine(a, b) for a, b in combinations(vectors, 2)]))


def cosine(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The cosine of the angle between two arrays read as vectors; 0 if one is all zeros."""
    size = norm(a) * norm(b)
    return jnp.sum(a * b) / jnp.where(size == 0, 1, size)


def norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The Euclidean norm of an array read as a vector."""
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def widened(leaves: Sequence[Float[Array, "..."]]) -> list[Float[Array, "..."]]:
    """The leaves in what they are added up in: float32, or float64 if one of them is."""
    is_double = any(leaf.dtype == jnp.float64 for leaf in leaves)
    return [leaf.astype(jnp.float64 if is_double else jnp.float32) for leaf in leaves]


def weighted_sum(
    leaves: Sequence[Float[Array, "*shape"]], weights: Sequence[Scalar]
) -> Float[Array, "*shape"]:
    """Σ w x, in the order given."""
    return reduce(jnp.add, [w * x for w, x in zip(weights, leaves, strict=True)])


def per_model(weights: Weights, count: int) -> list[Scalar]:
    """One weight for each of `count` models.

    Raises:
        ValueError: If there are more weights than models, or fewer.
    """
    if isinstance(weights, float | int) or (isinstance(weights, Array) and weights.ndim == 0):
        return [weights] * count
    each: list[Scalar] = list(weights)
    if len(each) != count:
        raise ValueError(
            f"merge: {len(each)} weights {each} for {count} models. Give one number for all, or "
            "one for each; the base has none."
        )
    return each
