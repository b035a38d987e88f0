"""Straight-through pruning: dense weights are stored, and a sparse network is seen."""

import jax
import jax.numpy as jnp

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.bits import Storage
from wlab.pruning.budget import Density
from wlab.pruning.choosing import masks_at
from wlab.pruning.magnitude import MagnitudeState
from wlab.pruning.masking import packed, through
from wlab.pruning.schedules import Schedule, constant
from wlab.pruning.shares import Choice, pruned_choices
from wlab.transform import Key, Params, Step, WeightTransform


def straight_through(
    density: Density | Schedule,
    rules: tree.Rules[Choice],
    *,
    every: int = 1,
    allocation: Allocation = uniform,
    storage: Storage = "bits",
) -> WeightTransform:
    """Shows the largest weights, and trains all of them with the gradient of what is shown.

    A weight that is not shown goes on learning, and may come back as large as it has grown.
    Nothing is zero in what is stored: finalize to export.

    Args:
        density: A schedule, or the fraction that is shown after the first step.
        rules: As in `magnitude`; patterns are chosen anew each time, and reached as there.
        every: Steps between choices, also after the schedule's end.
        allocation: As in `magnitude`.
        storage: As in `magnitude`.

    Raises:
        ValueError: As `magnitude`.
        TypeError: As `magnitude`.

    Reference:
        Bengio et al. 2013 (arXiv:1308.3432); as pruning Lin et al. 2020 (arXiv:2006.07253); of
        N:M Zhou et al. 2021 (arXiv:2102.04010), without the decay of what is hidden, SR-STE.
    """
    if every < 1:
        raise ValueError(
            f"straight_through: `every` is a number of steps, at least 1; got {every}."
        )
    schedule = density if isinstance(density, Schedule) else constant(density)

    def init(params: Params, key: Key) -> tuple[Params, MagnitudeState]:
        del key
        choices = pruned_choices(rules, params, purpose="straight_through")
        leaves = tree.leaves(params)
        masks = {path: jnp.ones_like(leaves[path], dtype=bool) for path in choices}
        return params, MagnitudeState(packed(masks, storage))

    def update(
        stored: Params, grads: Params | None, state: MagnitudeState, step: Step
    ) -> MagnitudeState:
        del grads
        choices = pruned_choices(rules, stored, purpose="straight_through")
        leaves = tree.leaves(stored)

        def choose() -> MagnitudeState:
            sizes = {path: jnp.abs(leaves[path]) for path in choices}
            masks = masks_at(step, schedule, sizes, choices, allocation)
            return MagnitudeState(packed(masks, storage))

        return jax.lax.cond(schedule.is_open(step, every), choose, lambda: state)

    return WeightTransform(
        init,
        view=lambda stored, state, step: through(stored, state.masks),
        update=update,
    )
