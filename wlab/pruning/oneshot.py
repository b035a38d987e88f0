"""Pruning without a loop, and a truthful report of what is left."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.budget import Density, refuse_bad_density
from wlab.pruning.patterns import Pattern
from wlab.pruning.rounds import masks_in_round
from wlab.pruning.scores import Score, magnitude, refuse_nan, scored
from wlab.pruning.shares import Share, is_pruned, matrices, pruned_shares
from wlab.transform import Params

PruneRules: TypeAlias = tree.Rules[Share | Pattern]


def prune(
    params: Params,
    density: Density,
    rules: PruneRules | None = None,
    *,
    allocation: Allocation = uniform,
    score: Score = magnitude,
    rounds: int = 1,
) -> Params:
    """Zeroes all but the weights that score highest, at once or in rounds.

    After round r the density is density^(r / rounds), and the scores are those of what is left.
    Zeros go first, whatever they score. Counts are exact after the last round.

    Args:
        params: Any tree.
        density: The fraction kept of the selected leaves.
        rules: As in `magnitude`; a leaf may have a pattern too, `Neighbours(2, 4)` or
            `PerOutput(0.5)`, which takes its last two axes as inputs and outputs. A warning names
            vectors, as of norms, and embeddings that they select. Without rules, every float leaf
            of two or more axes is pruned.
        allocation: As in `magnitude`.
        score: What weights are ranked by, as `scores.taylor(loss_fn, batches)`.
        rounds: Prunings, one after the other.

    Raises:
        ValueError: If a density is outside [0, 1], the rules do not fit the tree, `rounds` is below
            1, a pattern does not fit its leaf, or a selected leaf or its score holds NaN (not seen
            under jit, where NaN ranks largest).
        TypeError: If a selected leaf is not float32, bfloat16 or float16.
    """
    refuse_bad_density(density)
    if rounds < 1:
        raise ValueError(f"prune: rounds is a number of prunings, at least 1; got {rounds}.")
    shares = _shares(rules, params, purpose="prune")
    weights = {path: jnp.asarray(tree.leaves(params)[path]) for path in shares}
    refuse_nan(weights, "prune: leaf")
    if rules is not None:
        _warn_of_delicate(weights)
    for turn in range(1, rounds + 1):
        found = scored(score, params, shares, purpose="prune")
        found = {path: jnp.where(weights[path] != 0, s, -jnp.inf) for path, s in found.items()}
        masks = masks_in_round(found, shares, density, allocation, turn / rounds)
        weights = {path: jnp.where(mask, weights[path], 0) for path, mask in masks.items()}
        params = tree.replace(params, weights)
    return params


def masks_of(params: Params, rules: PruneRules | None = None) -> dict[str, Bool[Array, "..."]]:
    """The masks that the zeros of the prunable leaves spell, by path.

    Args:
        params: Any tree.
        rules: Which leaves are prunable, as in `prune`.

    Raises:
        ValueError: If the rules do not fit the tree.
    """
    shares = _shares(rules, params, purpose="masks_of")
    return {path: jnp.asarray(tree.leaves(params)[path]) != 0 for path in shares}


def report(params: Params, rules: PruneRules | None = None) -> tree.Table:
    """Weights and weights kept, not zero, of each leaf, of the prunable ones and of the model.

    Args:
        params: Any tree.
        rules: Which leaves are prunable, as in `prune`.

    Raises:
        ValueError: If the rules do not fit the tree.
    """
    shares = tree.resolve(matrices(params) if rules is None else rules, params, purpose="report")
    named, left = tree.param_leaves(params), tree.nonzero(params)
    prunable = [path for path in named if is_pruned(shares[path])]

    def row(name: str, paths: Sequence[str]) -> tuple[Any, ...]:
        weights = sum(jnp.size(named[path]) for path in paths)
        kept = sum(left[path] for path in paths)
        return name, weights, kept, kept / max(weights, 1)

    rows = [(*row(path, [path]), path in prunable) for path in named]
    totals = [(*row("all prunable", prunable), True), (*row("the model", list(named)), None)]
    return tree.Table(("path", "weights", "kept", "density", "prunable"), (*rows, *totals))


def _shares(rules: PruneRules | None, params: Params, *, purpose: str) -> dict[str, Any]:
    """True, a density or a pattern of each leaf that is pruned."""
    rules = matrices(params) if rules is None else rules
    tree.refuse_no_pairs(rules, purpose)
    plain = [(regex, True if isinstance(value, Pattern) else value) for regex, value in rules]
    values = tree.resolve(rules, params, purpose=purpose)
    return {path: values[path] for path in pruned_shares(plain, params, purpose=purpose)}


def _warn_of_delicate(weights: Mapping[str, Array]) -> None:
    delicate = [p for p, w in weights.items() if w.ndim < 2 or p.split("/")[-1] == "embedding"]
    if delicate:
        warnings.warn(
            f"prune: the rules also select {', '.join(delicate)}: vectors, as of norms and "
            "biases, and embeddings are few weights or sparse already. Narrow the rules if this "
            "is not meant.",
            stacklevel=3,
        )
