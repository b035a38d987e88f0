"""Sparse from the first step on, in places that move while training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wlab import tree
from wlab.pruning.allocation import Allocation, erk
from wlab.pruning.bits import Storage
from wlab.pruning.budget import Density
from wlab.pruning.magnitude import MagnitudeState
from wlab.pruning.masking import PackedMasks, packed, unpacked
from wlab.pruning.selection import topk_mask
from wlab.pruning.shares import Share
from wlab.pruning.static import static
from wlab.transform import Key, Params, Step, WeightTransform

Mask: TypeAlias = Bool[Array, "..."]
# Scores of what may grow, by path: from the weights, the gradients, the state and the step.
Growth: TypeAlias = Callable[[Params, Params | None, Any, Step], Mapping[str, Array]]


class EvolutionState(NamedTuple):
    """The packed masks by path, and the key from which chance comes."""

    masks: PackedMasks
    key: Key


def rigl(
    density: Density | None,
    rules: tree.Rules[Share],
    *,
    end: int,
    every: int = 100,
    fraction: float = 0.3,
    allocation: Allocation = erk,
    storage: Storage = "bits",
) -> WeightTransform:
    """Moves weights to where the gradient is largest, while as many stay in every leaf.

    Every so often a part of a leaf's live weights, the smallest, dies, and as many grow where the
    loss is steepest: fraction/2 · (1 + cos(πt / end)) of them, first after step `every`. Grown
    weights start at zero with zero moments under any optimizer; one that dies and grows at once
    keeps its value. Reads the dense gradient that the step computes anyway. A NaN gradient ranks
    largest: train with a guard.

    Args:
        density: As in `static`.
        rules: As in `magnitude`.
        end: The step from which the masks stay.
        every: Steps between moves.
        fraction: Of the live weights of a leaf, that move at the first.
        allocation: As in `magnitude`.
        storage: As in `magnitude`.

    Raises:
        ValueError: If `every` or `end` is below 1, `fraction` outside [0, 1], or as `static`.
        TypeError: As `magnitude`.

    Reference:
        Evci et al. 2020 (arXiv:1911.11134), algorithm 1.
    """

    moves = _Moves("rigl", end, every, fraction)

    def steepest(
        stored: Params, grads: Params | None, state: MagnitudeState, step: Step
    ) -> dict[str, Array]:
        del stored, step
        slopes = tree.leaves(grads)
        return {path: jnp.abs(slopes[path]) for path in state.masks}

    start = static(density, rules, allocation=allocation, storage=storage)
    return start._replace(update=_update(moves, steepest, storage), needs_grads=True)


def evolutionary(
    density: Density | None,
    rules: tree.Rules[Share],
    *,
    end: int,
    every: int = 100,
    fraction: float = 0.3,
    allocation: Allocation = erk,
    storage: Storage = "bits",
) -> WeightTransform:
    """Moves weights to places chosen by chance: sparse evolutionary training, SET.

    As `rigl` in all else, so that the two differ in what grows alone: fewer move as time goes. The
    paper moves 0.3 of them at the end of every epoch, the positive and the negative ones nearest
    to zero.

    Raises:
        ValueError: As `rigl`.
        TypeError: As `magnitude`.

    Reference:
        Mocanu et al. 2018 (arXiv:1707.04780), algorithm 2.
    """

    moves = _Moves("evolutionary", end, every, fraction)
    start = static(density, rules, allocation=allocation, storage=storage)

    def init(params: Params, key: Key) -> tuple[Params, EvolutionState]:
        stored, state = start.init(params, key)
        return stored, EvolutionState(state.masks, key)

    def anywhere(
        stored: Params, grads: Params | None, state: EvolutionState, step: Step
    ) -> dict[str, Array]:
        del grads
        key, leaves = jax.random.fold_in(state.key, step), tree.leaves(stored)
        return {
            path: jax.random.uniform(tree.path_key(key, path), leaves[path].shape)
            for path in state.masks
        }

    return start._replace(init=init, update=_update(moves, anywhere, storage))


def moved(weights: Array, mask: Mask, growth: Array, part: float | Float[Array, ""]) -> Mask:
    """The mask after the smallest live weights have died and as many others have grown.

    As many stay live as there were. Ties go to the lower flat index.

    Args:
        weights: Of a leaf.
        mask: Which are live.
        growth: Scores, not negative, of all that may grow: those that are dead, and those that
            are dying.
        part: Of the live weights that die; rounded to the nearest number of them.
    """
    live = jnp.sum(mask, dtype=jnp.int32)
    moves = jnp.round(part * live.astype(jnp.float32)).astype(jnp.int32)
    survivors = mask & topk_mask(jnp.where(mask, jnp.abs(weights), -1), live - moves)
    return survivors | topk_mask(jnp.where(survivors, -1, growth), moves)


@dataclass(frozen=True)
class _Moves:
    """When masks move, and how much of them."""

    name: str
    end: int
    every: int
    fraction: float

    def __post_init__(self) -> None:
        if self.every < 1 or self.end < 1:
            raise ValueError(
                f"{self.name}: every and end are steps, at least 1; got {self.every}, {self.end}."
            )
        if not 0 <= self.fraction <= 1:
            raise ValueError(
                f"{self.name}: fraction is a part of a leaf, in [0, 1]; got {self.fraction}."
            )

    def part(self, step: Step) -> Float[Array, ""]:
        """Of a leaf's live weights."""
        angle = jnp.pi * jnp.asarray(step).astype(jnp.float32) / self.end
        return self.fraction / 2 * (1 + jnp.cos(angle))

    def is_due(self, step: Step) -> Bool[Array, ""]:
        """Whether masks move after a step."""
        step = jnp.asarray(step)
        return (step % self.every == 0) & (step > 0) & (step < self.end)


def _update(moves: _Moves, growth: Growth, storage: Storage) -> Callable[..., Any]:
    def update(stored: Params, grads: Params | None, state: Any, step: Step) -> Any:
        leaves = tree.leaves(stored)

        def move() -> Any:
            masks, scores = unpacked(state.masks, leaves), growth(stored, grads, state, step)
            part = moves.part(step)
            new = {p: moved(leaves[p], mask, scores[p], part) for p, mask in masks.items()}
            return state._replace(masks=packed(new, storage))

        return jax.lax.cond(moves.is_due(step), move, lambda: state)

    return update
