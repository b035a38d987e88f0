"""Sensitivity: what a network loses if one leaf is pruned."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from wlab import tree
from wlab.pruning.budget import kept, refuse_bad_density
from wlab.pruning.scores import Score, magnitude, scored
from wlab.pruning.selection import topk_mask
from wlab.pruning.shares import Share, matrices, pruned_shares
from wlab.transform import Params


def sensitivity(
    evaluate: Callable[[Params], Any],
    params: Params,
    densities: Sequence[float],
    rules: tree.Rules[Share] | None = None,
    *,
    score: Score = magnitude,
) -> tree.Table:
    """A row for each leaf and density: the loss if that leaf alone is pruned to it.

    A leaf's densities are evaluated together, in one compiled call.

    Args:
        evaluate: The loss of a tree, or another scalar of which less is better. Is traced.
        params: Any tree.
        densities: Fractions kept; with 1 among them for the network as it is.
        rules: Which leaves, as in `magnitude`; without them, as in `prune`.
        score: What weights are ranked by.

    Raises:
        ValueError: If there are no densities or one is outside [0, 1], the rules do not fit the
            tree, a score holds NaN, or `evaluate` gives no scalar.
        TypeError: If a selected leaf is not float32, bfloat16 or float16.

    Reference:
        Han et al. 2015 (arXiv:1506.02626), figure 6; Li et al. 2017 (arXiv:1608.08710),
        section 3.2.
    """
    if not densities:
        raise ValueError("sensitivity: there is no density to prune to.")
    for density in densities:
        refuse_bad_density(density)
    rules = matrices(params) if rules is None else rules
    shares = pruned_shares(rules, params, purpose="sensitivity")
    found = scored(score, params, shares, purpose="sensitivity")
    run = jax.jit(partial(_values, evaluate), static_argnums=0)
    rows: list[tuple[Any, ...]] = []
    for path, scores in found.items():
        counts = jnp.array([kept(scores.size, d) for d in densities], jnp.int32)
        values = np.asarray(run(path, params, scores, counts)).tolist()
        rows += [(path, d, value) for d, value in zip(densities, values, strict=True)]
    return tree.Table(("path", "density", "value"), tuple(rows))


def _values(
    evaluate: Callable[[Params], Any],
    path: str,
    params: Params,
    scores: Float[Array, "..."],
    counts: Int32[Array, " n"],
) -> Array:
    leaf = jnp.asarray(tree.leaves(params)[path])

    def at(k: Array) -> Array:
        pruned = jnp.where(topk_mask(scores, k), leaf, 0)
        value = jnp.asarray(evaluate(tree.replace(params, {path: pruned})))
        if value.shape != ():
            raise ValueError(f"sensitivity: evaluate gives shape {value.shape}, not a scalar.")
        return value

    return jax.vmap(at)(counts)
