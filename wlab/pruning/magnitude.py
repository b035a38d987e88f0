"""Magnitude pruning during training, as a weight transform."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, Budget, Shape, uniform
from wlab.pruning.bits import Packed, Storage, pack, unpack
from wlab.pruning.budget import Density
from wlab.pruning.schedules import Schedule, constant
from wlab.pruning.selection import topk_masks
from wlab.pruning.shares import Share, budgets, pruned_shares
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
        return params, MagnitudeState({p: pack(m, storage=storage) for p, m in masks.items()})

    def view(stored: Params, state: MagnitudeState, step: Step) -> Params:
        del step
        # The forward pass is the identity, for zeros are stored; the gradient is masked.
        return _masked(stored, state, lambda m, p: jnp.where(m, p, jax.lax.stop_gradient(p)))

    def project(stored: Params, state: MagnitudeState) -> Params:
        return _masked(stored, state, lambda m, p: jnp.where(m, p, 0))

    def update(
        stored: Params, grads: Params | None, state: MagnitudeState, step: Step
    ) -> MagnitudeState:
        del grads

        def choose() -> MagnitudeState:
            shares, named = pruned_shares(rules, stored, purpose="magnitude"), tree.leaves(stored)
            weights = {path: named[path] for path in shares}
            shapes = {path: leaf.shape for path, leaf in weights.items()}
            due = _budgets_at(step, schedule, shares, shapes, allocation)
            return MagnitudeState(_choose(weights, state.masks, due, storage))

        return jax.lax.cond(_is_due(schedule, step, every), choose, lambda: state)

    return WeightTransform(init, view, project, update, in_place=True)


def _budgets_at(
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


def _choose(
    weights: Mapping[str, Array],
    masks: Mapping[str, Packed],
    budgets: Sequence[Budget],
    storage: Storage,
) -> dict[str, Packed]:
    alive = {path: unpack(masks[path], leaf.shape) for path, leaf in weights.items()}
    scores = {path: jnp.where(alive[path], jnp.abs(leaf), -1) for path, leaf in weights.items()}
    new = {}
    for paths, k in budgets:
        chosen = topk_masks([scores[path] for path in paths], k)
        for path, mask in zip(paths, chosen, strict=True):
            new[path] = pack(mask & alive[path], storage=storage)
    return {path: new[path] for path in masks}


def _is_due(schedule: Schedule, step: Step, every: int) -> Bool[Array, ""]:
    elapsed = jnp.asarray(step) - schedule.begin
    is_turn = (elapsed % every == 0) | (step == schedule.end)
    return is_turn & (elapsed >= 0) & (step <= schedule.end)


def _first_mask(leaf: Array, infer: bool) -> Bool[Array, "..."]:
    return jnp.asarray(leaf) != 0 if infer else jnp.ones_like(leaf, dtype=bool)


def _masked(stored: Params, state: MagnitudeState, f: Callable[[Array, Array], Array]) -> Params:
    def at(path: str, leaf: Array) -> Array:
        packed = state.masks.get(path)
        return leaf if packed is None else f(unpack(packed, leaf.shape), leaf)

    return tree.map_leaves(at, stored)
