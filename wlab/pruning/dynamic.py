"""Sparse from the first step on, in places that move while training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wlab import tree
from wlab.pruning.allocation import Allocation, erk
from wlab.pruning.bits import Storage
from wlab.pruning.budget import Density
from wlab.pruning.magnitude import MagnitudeState
from wlab.pruning.masking import PackedMasks, packed, unpacked, zeroed
from wlab.pruning.patterns import Blocks, Pattern, places_of
from wlab.pruning.selection import topk_mask
from wlab.pruning.shares import Share, pruned_choices
from wlab.pruning.static import static
from wlab.pruning.tiles import tile_sums, tiles_shape, whole_tiles
from wlab.transform import Key, Params, Step, WeightTransform

Mask: TypeAlias = Bool[Array, "..."]
# Scores of what may grow in a leaf, entries or tiles, from its path, weights, gradient and tiles,
# the state and the step.
Growth: TypeAlias = Callable[[str, Array, Any, Blocks | None, Any, Step], Array]


class EvolutionState(NamedTuple):
    """The packed masks by path, and the key from which chance comes."""

    masks: PackedMasks
    key: Key


def rigl(
    density: Density | None,
    rules: tree.Rules[Share | Blocks],
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

    Where a rule has `Blocks`, whole tiles die and grow: those with the smallest Σ |w| of the live
    ones, and those with the largest Σ |∂L/∂w|.

    Args:
        density: As in `static`; of tiles, None begins with those that have a weight that is not
            zero.
        rules: As in `magnitude`; of patterns, `Blocks` alone.
        end: The step from which the masks stay.
        every: Steps between moves.
        fraction: Of the live weights or tiles of a leaf, that move at the first.
        allocation: As in `magnitude`.
        storage: As in `magnitude`.

    Raises:
        ValueError: If `every` or `end` is below 1, `fraction` outside [0, 1], or as `static`;
            from `init`, if a leaf has another pattern or tiles that do not fit it.
        TypeError: As `magnitude`.

    Reference:
        Evci et al. 2020 (arXiv:1911.11134), algorithm 1.
    """

    moves = _Moves("rigl", end, every, fraction)

    def steepest(
        path: str, leaf: Array, slope: Array, of: Blocks | None, state: MagnitudeState, step: Step
    ) -> Array:
        del path, leaf, state, step
        return jnp.abs(slope) if of is None else tile_sums(jnp.abs(slope), of.shape)

    start = _start("rigl", density, rules, allocation, storage)
    update = _update(moves, rules, steepest, storage)
    return start._replace(update=update, needs_grads=True)


def evolutionary(
    density: Density | None,
    rules: tree.Rules[Share | Blocks],
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
    start = _start("evolutionary", density, rules, allocation, storage)

    def init(params: Params, key: Key) -> tuple[Params, EvolutionState]:
        stored, state = start.init(params, key)
        return stored, EvolutionState(state.masks, key)

    def anywhere(
        path: str, leaf: Array, slope: Any, of: Blocks | None, state: EvolutionState, step: Step
    ) -> Array:
        del slope
        return _chance(jax.random.fold_in(state.key, step), path, leaf.shape, of)

    return start._replace(init=init, update=_update(moves, rules, anywhere, storage))


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


def moved_tiles(
    weights: Float[Array, "*batch inputs outputs"],
    mask: Bool[Array, "*batch inputs outputs"],
    growth: Float[Array, "*batch down across"],
    part: float | Float[Array, ""],
    *,
    shape: tuple[int, int],
) -> Bool[Array, "*batch inputs outputs"]:
    """The mask after the live tiles with the smallest Σ |w| have died and as many have grown.

    As `moved`, of the tiles of all matrices together; a tile is live if any of its entries is.

    Args:
        weights: Of a leaf.
        mask: Which are live.
        growth: Scores, not negative, of all tiles.
        part: Of the live tiles that die; rounded to the nearest number of them.
        shape: Inputs and outputs of a tile.
    """
    live = tile_sums(mask, shape) > 0
    kept = moved(tile_sums(jnp.abs(weights), shape), live, growth, part)
    return whole_tiles(kept, mask, shape=shape)


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


def _start(
    name: str,
    density: Density | None,
    rules: tree.Rules[Share | Blocks],
    allocation: Allocation,
    storage: Storage,
) -> WeightTransform:
    """As `static`, where leaves may have tiles."""
    tree.refuse_no_pairs(rules, name)
    shares = [(regex, None if isinstance(of, Blocks) else of) for regex, of in rules]
    start = static(density, shares, allocation=allocation, storage=storage)

    def init(params: Params, key: Key) -> tuple[Params, MagnitudeState]:
        tiles, leaves = _tiles(name, rules, params), tree.leaves(params)
        masks: PackedMasks = {}
        if len(tiles) < len(pruned_choices(rules, params, purpose=name)):
            masks |= start.init(params, key)[1].masks
        for path, of in tiles.items():
            leaf = jnp.asarray(leaves[path])
            if density is None:
                kept = tile_sums(leaf != 0, of.shape) > 0
            else:
                chance = _chance(key, path, leaf.shape, of)
                kept = topk_mask(chance, places_of(of, leaf.shape))
            masks |= packed({path: whole_tiles(kept, leaf, shape=of.shape)}, storage)
        return zeroed(params, masks), MagnitudeState(masks)

    return start._replace(init=init)


def _tiles(name: str, rules: tree.Rules[Share | Blocks], params: Params) -> dict[str, Blocks]:
    """Of the leaves that have them, by path.

    Raises:
        ValueError: If a leaf has another pattern, or as `pruned_choices`.
    """
    found = {}
    for path, choice in pruned_choices(rules, params, purpose=name).items():
        if isinstance(choice, Blocks):
            found[path] = choice
        elif isinstance(choice, Pattern):
            raise ValueError(
                f"{name}: leaf {path!r} has {choice}, but of patterns {name} knows Blocks alone. "
                "Give it that, True or a density."
            )
    return found


def _chance(key: Key, path: str, shape: tuple[int, ...], of: Blocks | None) -> Array:
    """A number for each entry of a leaf, or for each tile."""
    places = shape if of is None else tiles_shape(of.shape, shape)
    return jax.random.uniform(tree.path_key(key, path), places)


def _update(
    moves: _Moves, rules: tree.Rules[Share | Blocks], growth: Growth, storage: Storage
) -> Callable[..., Any]:
    def update(stored: Params, grads: Params | None, state: Any, step: Step) -> Any:
        leaves, tiles = tree.leaves(stored), _tiles(moves.name, rules, stored)
        slopes = {} if grads is None else tree.leaves(grads)
        due = moves.is_due(step)

        def move(path: str) -> Any:
            leaf, of, part = leaves[path], tiles.get(path), moves.part(step)
            mask = unpacked({path: state.masks[path]}, leaves)[path]
            scores = growth(path, leaf, slopes.get(path), of, state, step)
            if of is None:
                new = moved(leaf, mask, scores, part)
            else:
                new = moved_tiles(leaf, mask, scores, part, shape=of.shape)
            return packed({path: new}, storage)[path]

        # A branch for each leaf, so that none waits for the gradients of the others.
        masks = {
            path: jax.lax.cond(due, partial(move, path), lambda old=old: old)
            for path, old in state.masks.items()
        }
        return state._replace(masks=masks)

    return update
