"""Sparse from the first step on, in places that stay."""

import jax
import jax.numpy as jnp

from wlab import tree
from wlab.pruning.allocation import Allocation, erk
from wlab.pruning.bits import Storage
from wlab.pruning.budget import Density, refuse_bad_density
from wlab.pruning.choosing import largest
from wlab.pruning.magnitude import MagnitudeState
from wlab.pruning.masking import packed, seen, zeroed
from wlab.pruning.shares import Share, budgets, pruned_shares
from wlab.transform import Key, Params, WeightTransform


def static(
    density: Density | None,
    rules: tree.Rules[Share],
    *,
    allocation: Allocation = erk,
    storage: Storage = "bits",
) -> WeightTransform:
    """Trains a part of the weights, chosen by chance before the first step, for ever.

    The others are exact zeros. What any sparse training must beat.

    Args:
        density: The fraction kept; None begins with the zeros found in the weights, and keeps
            those: from a sparse checkpoint, or a lottery ticket.
        rules: As in `magnitude`, without patterns.
        allocation: As in `magnitude`.
        storage: As in `magnitude`.

    Raises:
        ValueError: As `magnitude`.
        TypeError: As `magnitude`.
    """
    if density is not None:
        refuse_bad_density(density)

    def init(params: Params, key: Key) -> tuple[Params, MagnitudeState]:
        shares, leaves = pruned_shares(rules, params, purpose="static"), tree.leaves(params)
        if density is None:
            masks = {path: jnp.asarray(leaves[path]) != 0 for path in shares}
        else:
            shapes = {path: jnp.shape(leaves[path]) for path in shares}
            chance = {p: jax.random.uniform(tree.path_key(key, p), s) for p, s in shapes.items()}
            masks = largest(chance, budgets(shares, shapes, density, allocation))
        state = MagnitudeState(packed(masks, storage))
        return zeroed(params, state.masks), state

    return WeightTransform(
        init,
        view=lambda stored, state, step: seen(stored, state.masks),
        project=lambda stored, state: zeroed(stored, state.masks),
        in_place=True,
    )
