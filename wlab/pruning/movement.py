"""Movement pruning: what stays is what moves away from zero, by scores that are learned."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.bits import Storage
from wlab.pruning.budget import Density
from wlab.pruning.choosing import masks_at
from wlab.pruning.magnitude import MagnitudeState
from wlab.pruning.masking import packed, unpacked
from wlab.pruning.schedules import Schedule, constant
from wlab.pruning.shares import Choice, pruned_choices
from wlab.transform import Key, Params, Step, Stored, WeightTransform


def movement(
    density: Density | Schedule,
    rules: tree.Rules[Choice],
    *,
    every: int = 1,
    allocation: Allocation = uniform,
    storage: Storage = "bits",
) -> WeightTransform:
    """Shows the weights with the largest scores, and trains the scores beside the weights.

    v = m ⊙ w, with m the largest scores S. Every score learns by the slope that the choice would
    have if it were the identity, ∂L/∂S = w · ∂L/∂v, so that those of hidden weights go on and
    bring them back. Weights learn while they are seen: ∂L/∂w = m ⊙ ∂L/∂v. Under plain SGD
    S = −α · Σ_t w_t · (∂L/∂v)_t, the accumulated movement: large where weights have moved away
    from zero. Another optimizer trains S as it trains all else; the authors use Adam.

    What is stored is dense: finalize to export. The scores start at zero, in float32; that of
    `a/kernel` is `+/a/kernel`, which rules of decay and of the optimizer name: decay of scores
    forgets early movement. Their learning rate α matters beside a decay only, for ranks alone
    count. This is the hard variant with a density; the soft one, with a threshold and a penalty,
    is not here.

    Args:
        density: A schedule, as the paper's `cubic`, or the fraction that is shown after the
            first step.
        rules: As in `magnitude`, patterns too.
        every: Steps between choices, also after the schedule's end.
        allocation: As in `magnitude`; the paper ranks each matrix by itself, `uniform`.
        storage: As in `magnitude`.

    Raises:
        ValueError: As `magnitude`.
        TypeError: As `magnitude`.

    Reference:
        Sanh et al. 2020 (arXiv:2005.07683), section 4.
    """
    if every < 1:
        raise ValueError(f"movement: `every` is a number of steps, at least 1; got {every}.")
    schedule = density if isinstance(density, Schedule) else constant(density)

    def init(params: Params, key: Key) -> tuple[Stored, MagnitudeState]:
        del key
        choices, leaves = pruned_choices(rules, params, purpose="movement"), tree.leaves(params)
        scores = {path: jnp.zeros_like(leaves[path], dtype=jnp.float32) for path in choices}
        masks = {path: jnp.ones_like(leaves[path], dtype=bool) for path in choices}
        return Stored(params, scores), MagnitudeState(packed(masks, storage))

    def view(stored: Stored, state: MagnitudeState, step: Step) -> Params:
        del step
        leaves = tree.leaves(stored.params)
        masks = unpacked(state.masks, leaves)
        return tree.replace(stored.params, _all_seen(masks, leaves, stored.extra))

    def update(
        stored: Stored, grads: Params | None, state: MagnitudeState, step: Step
    ) -> MagnitudeState:
        del grads
        choices = pruned_choices(rules, stored.params, purpose="movement")

        def choose() -> MagnitudeState:
            masks = masks_at(step, schedule, stored.extra, choices, allocation)
            return MagnitudeState(packed(masks, storage))

        return jax.lax.cond(schedule.is_open(step, every), choose, lambda: state)

    return WeightTransform(init, view, update=update)


def _all_seen(
    masks: Mapping[str, Array], leaves: Mapping[str, Array], scores: Mapping[str, Array]
) -> dict[str, Array]:
    return {path: scored_weights(mask, leaves[path], scores[path]) for path, mask in masks.items()}


@jax.custom_jvp
def scored_weights(
    mask: Bool[Array, "*shape"], weights: Float[Array, "*shape"], scores: Float32[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The weights that a mask lets through; a score has the slope of a factor m + S beside them."""
    del scores
    return jnp.where(mask, weights, 0)


@scored_weights.defjvp
def _scored_weights_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Any, Array, Array]
) -> tuple[Array, Array]:
    (mask, weights, _), (_, moved, scored) = primals, tangents
    by_score = (weights.astype(jnp.float32) * scored).astype(weights.dtype)
    return scored_weights(*primals), jnp.where(mask, moved, 0) + by_score
