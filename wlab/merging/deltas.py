"""What tuning changed, added to the base again: task arithmetic, TIES and DARE on one leaf."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wlab.merging.arrays import Scalar, Weights, per_model, weighted_sum, widened
from wlab.merging.thinning import Key, drop, trim

Leaf: TypeAlias = Float[Array, "..."]


@dataclass(frozen=True)
class Convention:
    """How TIES elects a sign for an entry and divides by those who agree with it.

    The two that are in use differ as soon as the weights do, and merge to other models.
    With equal weights 1, `MERGEKIT` and `PEFT` are the same, and the paper's.

    Attributes:
        vote: What a model brings to the election, w δ or δ.
        tally: The sum of what they bring, or of its signs only.
        divisor: The agreeing models' weights, or their number.
    """

    vote: Literal["weighted", "unweighted"]
    tally: Literal["total", "frequency"]
    divisor: Literal["weights", "count"]


MERGEKIT = Convention("weighted", "total", "weights")  # method `ties`, normalize: true
PEFT = Convention("unweighted", "total", "count")  # majority_sign_method="total"
PEFT_FREQUENCY = Convention("unweighted", "frequency", "count")


def task_arithmetic(
    base: Float[Array, "*shape"],
    leaves: Sequence[Float[Array, "*shape"]],
    weights: Weights = 1.0,
) -> Float[Array, "*shape"]:
    r"""Adds what each model learned to the base: $x_0 + \sum_i \lambda_i (x_i - x_0)$.

    Args:
        base: x₀, which all models were tuned from.
        leaves: The same leaf of each model.
        weights: λ, one for all or one for each; below zero a model is unlearned.

    Raises:
        ValueError: If `weights` has another length than `leaves`.

    Reference:
        Ilharco et al. 2022 (arXiv:2212.04089).
    """
    origin, deltas = _deltas(base, leaves)
    total = weighted_sum(deltas, per_model(weights, len(leaves)))
    return (origin + total).astype(leaves[0].dtype)


def ties(
    base: Float[Array, "*shape"],
    leaves: Sequence[Float[Array, "*shape"]],
    weights: Weights = 1.0,
    *,
    density: float,
    convention: Convention = MERGEKIT,
    scale: Scalar = 1.0,
) -> Float[Array, "*shape"]:
    r"""Adds the mean of what the models changed most and in the same direction.

    $\hat\delta_i$ = `trim(x_i - x_0, density)`; the elected sign s of an entry is + if the
    votes add up to zero or more; $x_0 + \lambda \sum_{i \in A} w_i \hat\delta_i / D$ over the
    models A whose $\hat\delta$ has the sign s, with D from the convention.

    Args:
        base: x₀, which all models were tuned from.
        leaves: The same leaf of each model.
        weights: w, one for all or one for each, not below zero.
        density: The fraction of each δ that is kept, in (0, 1].
        convention: `MERGEKIT`, `PEFT` or `PEFT_FREQUENCY`.
        scale: λ, the factor of the merged change.

    Raises:
        ValueError: If the density is outside (0, 1], or `weights` has another length than
            `leaves`.

    Reference:
        Yadav et al. 2023 (arXiv:2306.01708), algorithm 1. The paper trims over all leaves
        together and lets the majority of all signs decide a draw; the two programs that
        the conventions are named after trim each leaf and take a draw for +, as here.
    """
    origin, deltas = _deltas(base, leaves)
    trimmed = [trim(delta, density) for delta in deltas]
    merged = _disjoint_mean(trimmed, per_model(weights, len(leaves)), convention)
    return (origin + scale * merged).astype(leaves[0].dtype)


def dare(
    base: Float[Array, "*shape"],
    leaves: Sequence[Float[Array, "*shape"]],
    weights: Weights = 1.0,
    *,
    density: float,
    key: Key,
    convention: Convention | None = None,
) -> Float[Array, "*shape"]:
    r"""Drops entries of what each model changed at random and enlarges the others to make up.

    Each δ is replaced by `drop(δ, density)`, whose expectation is δ. Then task arithmetic, so
    that the result is unbiased, or with a convention the election and mean of TIES.

    Args:
        base: x₀, which all models were tuned from.
        leaves: The same leaf of each model; model i draws with `fold_in(key, i)`.
        weights: One for all, or one for each.
        density: The probability to keep an entry, 1 - p, in (0, 1].
        key: What is dropped depends on it alone.
        convention: None for the sum (mergekit's `dare_linear` without normalize), else as `ties`.

    Raises:
        ValueError: If the density is outside (0, 1], or `weights` has another length than
            `leaves`.

    Reference:
        Yu et al. 2023 (arXiv:2311.03099). PEFT divides by the density, as the paper
        and this do; mergekit restores the sum of |δ| instead.
    """
    origin, deltas = _deltas(base, leaves)
    each = per_model(weights, len(leaves))
    thin = [drop(delta, density, jax.random.fold_in(key, i)) for i, delta in enumerate(deltas)]
    total = _disjoint_mean(thin, each, convention) if convention else weighted_sum(thin, each)
    return (origin + total).astype(leaves[0].dtype)


def sign_conflicts(deltas: Sequence[Float[Array, "*shape"]]) -> Bool[Array, "*shape"]:
    """Where one model went up and another one down."""
    up = reduce(jnp.logical_or, [delta > 0 for delta in deltas])
    down = reduce(jnp.logical_or, [delta < 0 for delta in deltas])
    return up & down


def _deltas(base: Leaf, leaves: Sequence[Leaf]) -> tuple[Leaf, list[Leaf]]:
    origin, *models = widened([base, *leaves])
    return origin, [x - origin for x in models]


def _disjoint_mean(deltas: list[Leaf], weights: list[Scalar], convention: Convention) -> Leaf:
    weighted = [w * delta for w, delta in zip(weights, deltas, strict=True)]
    votes = weighted if convention.vote == "weighted" else deltas
    if convention.tally == "frequency":
        votes = [jnp.sign(vote) for vote in votes]
    elected = jnp.where(reduce(jnp.add, votes) >= 0, 1.0, -1.0)
    agrees = [jnp.sign(delta) == elected for delta in deltas]
    ones = weights if convention.divisor == "weights" else [1.0] * len(weights)
    divisor = reduce(jnp.add, [jnp.where(a, w, 0.0) for a, w in zip(agrees, ones, strict=True)])
    chosen = [jnp.where(a, x, 0.0) for a, x in zip(agrees, weighted, strict=True)]
    return reduce(jnp.add, chosen) / jnp.where(divisor == 0, 1.0, divisor)
