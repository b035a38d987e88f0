"""Magnitude pruning during training, as a weight transform."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.bits import Packed, Storage
from wlab.pruning.budget import Density
from wlab.pruning.choosing import masks_at
from wlab.pruning.masking import packed, seen, unpacked, zeroed
from wlab.pruning.schedules import Schedule, constant
from wlab.pruning.shares import Choice, pruned_choices
from wlab.transform import Key, Params, Step, WeightTransform


class MagnitudeState(NamedTuple):
    """The packed masks of the pruned leaves, by path."""

    masks: dict[str, Packed]


def magnitude(
    density: Density | Schedule,
    rules: tree.Rules[Choice],
    *,
    every: int = 100,
    allocation: Allocation = uniform,
    storage: Storage = "bits",
    infer: bool = False,
) -> WeightTransform:
    """Keeps the largest weights, chosen anew every `every` steps while the density falls.

    Pruned weights are stored as exact zeros and never return: dead ones rank below live zeros,
    and a mask only loses entries, even where a schedule rises. NaN ranks largest.

    Patterns are reached along the schedule's curve too: with the part p of its way done, from 0
    at density 1 to 1 at the final one, N:M keeps keep + ⌈(of − keep) · (1 − p)⌉ of each group,
    which falls from `of` to `keep` one by one, and is `keep` exactly from the schedule's end on.

    Args:
        density: A schedule, or the fraction to keep from the first step on.
        rules: Ordered `(path regex, choice)`. True: pruned, within the allocation. A number:
            pruned to that final density along the same curve. A pattern, as `Neighbours(2, 4)`
            or `Blocks(0.5, (4, 4))`, takes a leaf's last two axes as inputs and outputs, so of
            a convolution's kernel (height, width, inputs, outputs) groups are along the inputs
            at one place. None or False: left alone.
        every: Steps between mask updates, from the schedule's `begin`; the last is at its `end`.
        allocation: How the density is divided: `uniform`, `globally` or `erk`.
        storage: "bits" takes an eighth of the memory of "int8".
        infer: Begin with the zeros found in the weights, instead of with all of them alive.

    Raises:
        ValueError: If a density is outside [0, 1] or `every` is below 1; from `init`, if a
            leaf has no rule, a rule no leaf, no leaf is selected, or a pattern does not fit its
            leaf.
        TypeError: From `init`, if a selected leaf is not float32, bfloat16 or float16.

    Reference:
        Han et al. 2015 (arXiv:1506.02626); Zhu & Gupta 2017 (arXiv:1710.01878); of N:M that falls
        Kao et al. 2022 (arXiv:2209.07617), sparse structure decay, here in the schedule's steps.
    """
    if every < 1:
        raise ValueError(f"magnitude: `every` is a number of steps, at least 1; got {every}.")
    schedule = density if isinstance(density, Schedule) else constant(density)

    def init(params: Params, key: Key) -> tuple[Params, MagnitudeState]:
        del key
        choices, named = pruned_choices(rules, params, purpose="magnitude"), tree.leaves(params)
        masks = {path: _first_mask(named[path], infer) for path in choices}
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
            choices, named = pruned_choices(rules, stored, purpose="magnitude"), tree.leaves(stored)
            weights = {path: named[path] for path in choices}
            alive = unpacked(state.masks, weights)
            scores = {p: jnp.where(alive[p], jnp.abs(w), -jnp.inf) for p, w in weights.items()}
            chosen = masks_at(step, schedule, scores, choices, allocation)
            return MagnitudeState(packed({p: chosen[p] & alive[p] for p in alive}, storage))

        return jax.lax.cond(schedule.is_due(step, every), choose, lambda: state)

    return WeightTransform(init, view, project, update, in_place=True)


def _first_mask(leaf: Array, infer: bool) -> Bool[Array, "..."]:
    return jnp.asarray(leaf) != 0 if infer else jnp.ones_like(leaf, dtype=bool)
