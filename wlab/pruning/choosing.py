"""Masks from scores: how many are due at a step, and which those are."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from wlab.pruning.allocation import Allocation, Budget, Shape
from wlab.pruning.budget import Count, Density
from wlab.pruning.patterns import Pattern, chosen, places_of, places_on_the_way
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


def masks_at(
    step: Step,
    schedule: Schedule,
    scores: Mapping[str, Array],
    choices: Mapping[str, Density | Pattern],
    allocation: Allocation,
) -> dict[str, Bool[Array, "..."]]:
    """The masks at a step, by path: of the leaves with a pattern, those that it allows then."""
    patterns = {path: c for path, c in choices.items() if isinstance(c, Pattern)}
    shares = {path: c for path, c in choices.items() if path not in patterns}
    shapes = {path: scores[path].shape for path in choices}
    due = budgets_at(step, schedule, shares, shapes, allocation)
    masks = largest({path: scores[path] for path in shares}, due)
    for path, pattern in patterns.items():
        places = places_at(step, schedule, pattern, shapes[path])
        masks[path] = chosen(pattern, scores[path], places=places)
    return {path: masks[path] for path in choices}


def budgets_at(
    step: Step,
    schedule: Schedule,
    shares: Mapping[str, Density],
    shapes: Mapping[str, Shape],
    allocation: Allocation,
) -> list[Budget]:
    """The budgets at a step; from the schedule's end on, those of the exact final density."""
    done = _done(step, schedule)
    shares_now = {p: s if s is True else 1 - (1 - s) * done for p, s in shares.items()}
    running = budgets(shares_now, shapes, schedule(step), allocation)
    last = budgets(shares, shapes, schedule.final, allocation)
    is_last = jnp.asarray(step) >= schedule.end
    return [
        Budget(paths, jnp.where(is_last, k_last, k))
        for (paths, k), (_, k_last) in zip(running, last, strict=True)
    ]


def places_at(step: Step, schedule: Schedule, pattern: Pattern, shape: Shape) -> Count:
    """The places of a pattern at a step; from the schedule's end on, the pattern's own."""
    running = places_on_the_way(pattern, shape, _done(step, schedule))
    is_last = jnp.asarray(step) >= schedule.end
    return jnp.where(is_last, places_of(pattern, shape), running)


def _done(step: Step, schedule: Schedule) -> Float32[Array, ""]:
    """How much of the pruning is done at a step, from 0 to 1."""
    return (1 - schedule(step)) / jnp.maximum(1 - schedule.final, 1e-9)
