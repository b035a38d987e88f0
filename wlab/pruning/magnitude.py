"""Magnitude pruning during training, as a weight transform."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.bits import Packed, Storage
from wlab.pruning.budget import Density
from wlab.pruning.choosing import budgets_at, largest
from wlab.pruning.masking import packed, seen, unpacked, zeroed
from wlab.pruning.schedules import Schedule, constant
from wlab.pruning.shares import Share, pruned_shares
from wlab.transform import Key, Params, Step, WeightTransform


class MagnitudeState(NamedTuple):
    """The packed masks of the pruned leaves, by path."""

    masks: dict[str, Packed]


def magnitude(
    density: Density | Schedule,
    rules: tree.Rules[Share],
    *,
    every: int = 100,
    allocation: Allocation = uniform,
    storage: Storage = "bits",
    infer: bool = False,
) -> WeightTransform:
    """Keeps the largest weights, chosen anew every `every` steps while the density falls.

    Pruned weights are stored as exact zeros and never return: dead ones rank below live zeros,
    and a mask only loses entries, even where a schedule rises. NaN ranks largest.

    Args:
        density: A schedule, or the fraction to keep from the first step on.
        rules: Ordered `(path regex, share)`. True: pruned, within the allocation. A number:
            pruned to that final density along the same curve. None or False: left alone.
        every: Steps between mask updates, from the schedule's `begin`; the last is at its `end`.
        allocation: How the density is divided: `uniform`, `globally` or `erk`.
        storage: "bits" takes an eighth of the memory of "int8".
        infer: Begin with the zeros found in the weights, instead of with all of them alive.

    Raises:
        ValueError: If a density is outside [0, 1] or `every` is below 1; from `init`, if a
            leaf has no rule, a rule no leaf, or no leaf is selected.
        TypeError: From `init`, if a selected leaf is not float32, bfloat16 or float16.

    Reference:
        Han et al. 2015 (arXiv:1506.02626); Zhu & Gupta 2017 (arXiv:1710.01878).
    """
    if every < 1:
        raise ValueError(f"magnitude: `every` is a number of steps, at least 1; got {every}.")
    schedule = density if isinstance(density, Schedule) else constant(density)

    def init(params: Params, key: Key) -> tuple[Params, MagnitudeState]:
        del key
        shares, named = pruned_shares(rules, params, purpose="magnitude"), tree.leaves(params)
        masks = {path: _first_mask(named[path], infer) for path in shares}
        return params, MagnitudeState(packed(masks, storage))

    def view(stored: Params, state: MagnitudeState, step: Step) -> Params:
        del step
        return seen(stored, state.masks)

    def project(stored: Params, state: MagnitudeState) -> Params:
        return zeroed(stored, state.masks)

    def update(
        stored: Params, grads: Params | None, state: MagnitudeState, step: Step
    ) -> MagnitudeState:
        del grads

        def choose() -> MagnitudeState:
            shares, named = pruned_shares(rules, stored, purpose="magnitude"), tree.leaves(stored)
            weights = {path: named[path] for path in shares}
            shapes = {path: leaf.shape for path, leaf in weights.items()}
            due = budgets_at(step, schedule, shares, shapes, allocation)
            alive = unpacked(state.masks, weights)
            scores = {p: jnp.where(alive[p], jnp.abs(leaf), -1) for p, leaf in weights.items()}
            chosen = largest(scores, due)
            return MagnitudeState(packed({p: chosen[p] & alive[p] for p in alive}, storage))

        return jax.lax.cond(schedule.is_due(step, every), choose, lambda: state)

    return WeightTransform(init, view, project, update, in_place=True)


def _first_mask(leaf: Array, infer: bool) -> Bool[Array, "..."]:
    return jnp.asarray(leaf) != 0 if infer else jnp.ones_like(leaf, dtype=bool)
