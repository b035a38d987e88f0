"""Soft thresholds that are learned: a network finds by itself how sparse each leaf gets."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.pruning.shares import Share, pruned_shares
from wlab.transform import Key, Params, Step, Stored, WeightTransform


def soft_thresholded(
    weights: Float[Array, "*shape"], threshold: Float[Array, ""]
) -> Float[Array, "*shape"]:
    """sign(w) · max(|w| − threshold, 0): zero up to the threshold, nearer to zero beyond it.

    Beyond it the slope is 1 in w and −sign(w) in the threshold; elsewhere both are 0. NaN stays.
    """
    level = threshold.astype(weights.dtype)
    return jnp.where(jnp.abs(weights) <= level, 0, weights - jnp.sign(weights) * level)


def soft_threshold(
    rules: tree.Rules[Share],
    *,
    start: float | Float[Array, ""],
    threshold: Callable[[Float[Array, ""]], Float[Array, ""]] = jax.nn.sigmoid,
) -> WeightTransform:
    """Shows weights less a threshold, which each leaf learns: soft threshold reparametrization.

    v = sign(w) · max(|w| − g(s), 0), with one s a leaf, trained like any weight: its gradient is
    −g′(s) · Σ sign(w) · ∂L/∂v over the weights that are seen. No density is asked for: s is what
    weight decay draws to zero, and with it g(s) up to g(0). So the stronger the decay, the
    sparser; `pruning.report` on the finalized weights tells how much is left.

    What is stored is dense, and beside it s, in float32: for `a/kernel` it is `+/a/kernel`, which
    rules of decay and of the optimizer name.

    Args:
        rules: Ordered `(path regex, True or None)`.
        start: The first s. With g(start) small beside the weights training starts dense: −8
            makes 0.0003 by the sigmoid.
        threshold: g, increasing, and positive.

    Raises:
        ValueError: From `init`, if a leaf has no rule, a rule no leaf, no leaf is selected, or one
            is given a density.
        TypeError: From `init`, if a selected leaf is not float32, bfloat16 or float16.

    Reference:
        Kusupati et al. 2020 (arXiv:2002.03231), section 3.
    """

    def init(params: Params, key: Key) -> tuple[Stored, tuple[()]]:
        del key
        shares = pruned_shares(rules, params, purpose="soft_threshold")
        for path, share in shares.items():
            if share is not True:
                raise ValueError(
                    f"soft_threshold: leaf {path!r} is given the density {share}, but learns its "
                    "own. Give it True, or prune it by `magnitude`."
                )
        return Stored(params, {path: jnp.full((), start, jnp.float32) for path in shares}), ()

    def view(stored: Stored, state: Any, step: Step) -> Params:
        del state, step
        leaves = tree.leaves(stored.params)
        seen = {p: soft_thresholded(leaves[p], threshold(s)) for p, s in stored.extra.items()}
        return tree.replace(stored.params, seen)

    return WeightTransform(init, view)
