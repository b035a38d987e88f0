"""Masks from scores: how many are due at a step, and which those are."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab.pruning.allocation import Allocation, Budget, Shape
from wlab.pruning.budget import Density
from wlab.pruning.schedules import Schedule
from wlab.pruning.selection import topk_masks
from wlab.pruning.shares import budgets
from wlab.transform import Step


def largest(
    scores: Mapping[str, Array], budgets: Sequence[Budget]
) -> dict[str, Bool[Array, "..."]]:
    """The entries with the largest scores of the leaves of each budget, by path."""
    found = {}
    for paths, k in budgets:
        masks = topk_masks([scores[path] for path in paths], k)
        found |= dict(zip(paths, masks, strict=True))
    return {path: found[path] for path in scores}


def budgets_at(
    step: Step,
    schedule: Schedule,
    shares: Mapping[str, Density],
    shapes: Mapping[str, Shape],
    allocation: Allocation,
) -> list[Budget]:
    """The budgets at a step; from the schedule's end on, those of the exact final density."""
    now = schedule(step)
    progress = (1 - now) / jnp.maximum(1 - schedule.final, 1e-9)
    shares_now = {p: s if s is True else 1 - (1 - s) * progress for p, s in shares.items()}
    running = budgets(shares_now, shapes, now, allocation)
    last = budgets(shares, shapes, schedule.final, allocation)
    is_last = jnp.asarray(step) >= schedule.end
    return [
        Budget(paths, jnp.where(is_last, k_last, k))
        for (paths, k), (_, k_last) in zip(running, last, strict=True)
    ]
