"""Pruning without a loop, and a truthful report of what is left."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.budget import Density, refuse_bad_density
from wlab.pruning.choosing import largest
from wlab.pruning.shares import Share, budgets, is_pruned, matrices, pruned_shares
from wlab.transform import Params


def prune(
    params: Params,
    density: Density,
    rules: tree.Rules[Share] | None = None,
    *,
    allocation: Allocation = uniform,
) -> Params:
    """Zeroes all but the largest weights, at once.

    Args:
        params: Any tree.
        density: The fraction kept of the selected leaves.
        rules: As in `magnitude`; without them, every float leaf of two or more axes is pruned.
        allocation: As in `magnitude`.

    Raises:
        ValueError: If a density is outside [0, 1], the rules do not fit the tree, or a selected
            leaf holds NaN (not seen under jit, where NaN ranks largest).
        TypeError: If a selected leaf is not float32, bfloat16 or float16.
    """
    refuse_bad_density(density)
    shares = pruned_shares(matrices(params) if rules is None else rules, params, purpose="prune")
    weights = {path: jnp.asarray(tree.leaves(params)[path]) for path in shares}
    _refuse_nan(weights)
    shapes = {path: leaf.shape for path, leaf in weights.items()}
    scores = {path: jnp.abs(leaf) for path, leaf in weights.items()}
    masks = largest(scores, budgets(shares, shapes, density, allocation))
    return tree.replace(params, {p: jnp.where(m, weights[p], 0) for p, m in masks.items()})


def masks_of(
    params: Params, rules: tree.Rules[Share] | None = None
) -> dict[str, Bool[Array, "..."]]:
    """The masks that the zeros of the prunable leaves spell, by path.

    Args:
        params: Any tree.
        rules: Which leaves are prunable, as in `prune`.

    Raises:
        ValueError: If the rules do not fit the tree.
    """
    shares = pruned_shares(matrices(params) if rules is None else rules, params, purpose="masks_of")
    return {path: jnp.asarray(tree.leaves(params)[path]) != 0 for path in shares}


def report(params: Params, rules: tree.Rules[Share] | None = None) -> tree.Table:
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


def _refuse_nan(weights: dict[str, Array]) -> None:
    for path, leaf in weights.items():
        if not isinstance(leaf, Tracer) and bool(jnp.isnan(leaf).any()):
            raise ValueError(
                f"prune: leaf {path!r} holds NaN, which has no rank. Mend it, or leave it out "
                "by a rule."
            )
