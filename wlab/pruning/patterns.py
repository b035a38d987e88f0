"""Which entries compete for a place: all of a leaf, of one output, a few neighbours, or tiles."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32

from wlab import tree
from wlab.pruning.allocation import Shape
from wlab.pruning.budget import Count, Density, kept, refuse_bad_density
from wlab.pruning.groups import Remainder, nm_mask, refuse_bad_groups
from wlab.pruning.selection import topk_mask
from wlab.pruning.shards import gathered, placed_as
from wlab.pruning.tiles import ShortTiles, number_of_tiles, refuse_bad_tiles, tile_mask

Scores: TypeAlias = Float[Array, "*batch inputs outputs"]
Mask: TypeAlias = Bool[Array, "*batch inputs outputs"]


@dataclass(frozen=True)
class PerLeaf:
    """All entries of a matrix compete.

    Attributes:
        density: The fraction kept.

    Raises:
        ValueError: If the density is outside [0, 1].
    """

    density: Density

    def __post_init__(self) -> None:
        refuse_bad_density(self.density)


@dataclass(frozen=True)
class PerOutput:
    """The inputs of each output compete, as Wanda has it: every column keeps as many.

    Attributes:
        density: The fraction kept.

    Raises:
        ValueError: If the density is outside [0, 1].
    """

    density: Density

    def __post_init__(self) -> None:
        refuse_bad_density(self.density)


@dataclass(frozen=True)
class Neighbours:
    """`of` neighbouring inputs of each output compete for `keep` places: N:M sparsity.

    Attributes:
        keep: Entries kept of each group.
        of: Neighbours in a group.
        remainder: What becomes of a last short group, as in `nm_mask`.
        axis: Along which they stand: the inputs of a leaf, -1 where outputs come first, as in
            equinox. What reads from a function which axes are inputs takes the default alone.

    Raises:
        ValueError: If `keep` is not from 0 to `of`.
    """

    keep: int
    of: int
    remainder: Remainder = "refuse"
    axis: int = -2

    def __post_init__(self) -> None:
        refuse_bad_groups(self.keep, self.of)


@dataclass(frozen=True)
class Blocks:
    """Tiles of a leaf compete, by the sum of squares of their scores, and stay or go whole.

    Attributes:
        density: The fraction of the leaf's tiles that is kept, of a stack those of all matrices.
        shape: Inputs and outputs of a tile.
        remainder: What becomes of short tiles at the end, as in `tile_mask`.

    Raises:
        ValueError: If the density is outside [0, 1], or a tile has no entry.
    """

    density: Density
    shape: tuple[int, int]
    remainder: ShortTiles = "refuse"

    def __post_init__(self) -> None:
        refuse_bad_density(self.density)
        refuse_bad_tiles(self.shape)


Pattern: TypeAlias = PerLeaf | PerOutput | Neighbours | Blocks
"""Which entries of a leaf, as a matrix of inputs by outputs, compete for a place.

A leaf's last two axes are inputs and outputs; those before them count matrices. So a kernel of a
convolution (height, width, inputs, outputs) has its neighbours along the inputs at one place. Where
outputs come first, as in equinox, `Neighbours` takes the axis of the inputs.
"""


def patterned(
    rules: tree.Rules[Pattern | Density | None], per: Callable[[Density], Pattern], *, purpose: str
) -> tree.Rules[Pattern | None]:
    """The rules of what reads from a function which axes of a leaf are inputs.

    Args:
        rules: Ordered `(path regex, pattern)`; a density stands for a pattern of it.
        per: Which.
        purpose: Who asks, for messages.

    Raises:
        ValueError: If a density is outside [0, 1], or neighbours have an axis of their own.
        TypeError: If something else stands in their place, as True, which says no density.
    """
    tree.refuse_no_pairs(rules, purpose)
    return [(regex, _pattern(given, per, regex, purpose)) for regex, given in rules]


def chosen(pattern: Pattern, scores: Scores, *, places: Count | None = None) -> Mask:
    """The entries of a matrix that stay; of a stack, those of each matrix by itself.

    The tiles of `Blocks` are those of the whole stack. For the densities a stack is a loop, so
    that what choosing needs is in memory for one matrix at a time.

    Args:
        pattern: Which entries compete.
        scores: Larger is kept.
        places: How many stay of those that compete, instead of the pattern's own number.
    """
    k = places_of(pattern, scores.shape) if places is None else places
    match pattern:
        case Neighbours(of=of, remainder=remainder, axis=axis):
            return _neighbours(scores, keep=k, of=of, axis=axis, remainder=remainder)
        case Blocks(shape=shape, remainder=remainder):
            return _tiles(scores, k, shape=shape, remainder=remainder)
        case PerLeaf():
            return _matrices(scores, k)
        case PerOutput():
            return _outputs(scores, k)


def chosen_rows(
    pattern: Pattern, scores: Float[Array, "rows outputs"], start: int = 0
) -> Bool[Array, "rows outputs"]:
    """The entries that stay of a matrix's rows from `start` on, which compete among themselves.

    If all rows have had their turn, block by block, densities are met exactly.
    """
    if isinstance(pattern, Neighbours):
        return chosen(pattern, scores)
    rows, outputs = scores.shape
    before = places_of(pattern, (start, outputs))
    return chosen(pattern, scores, places=places_of(pattern, (start + rows, outputs)) - before)


def places_of(pattern: Pattern, shape: Shape) -> Count:
    """How many stay of those that compete: entries of a matrix, output or group, tiles of all."""
    match pattern:
        case PerLeaf(density):
            return kept(shape[-2] * shape[-1], density)
        case PerOutput(density):
            return kept(shape[-2], density)
        case Neighbours(keep=keep):
            return keep
        case Blocks(density, tile):
            return kept(number_of_tiles(tile, shape), density)


def places_on_the_way(pattern: Pattern, shape: Shape, progress: Float32[Array, ""]) -> Count:
    """As `places_of`, when a part of the pruning is done, from 0 (all stay) to 1.

    A density is 1 − (1 − density) · progress; N:M keeps keep + ⌈(of − keep) · (1 − progress)⌉,
    where a thousandth more than a whole number is that number.
    """
    if isinstance(pattern, Neighbours):
        more = (pattern.of - pattern.keep) * (1 - jnp.clip(progress, 0, 1))
        return pattern.keep + jnp.ceil(more - 1e-3).astype(jnp.int32)
    return places_of(replace(pattern, density=1 - (1 - pattern.density) * progress), shape)


def refuse_misfit(pattern: Pattern, shape: Shape) -> None:
    """Raises a ValueError if a leaf of a shape cannot have a pattern."""
    if len(shape) < 2:
        raise ValueError(
            f"it is no matrix, which {pattern} needs. Give it a density, or leave it out by a rule."
        )
    inputs, outputs = shape[-2:]
    match pattern:
        case Neighbours(axis=axis) if not -len(shape) <= axis < len(shape):
            raise ValueError(f"it has no axis {axis}, along which {pattern} has its groups.")
        case Neighbours(of=of, remainder="refuse", axis=axis) if shape[axis] % of:
            raise ValueError(
                f"groups of {of} do not divide the {shape[axis]} entries of its axis {axis}. "
                'Choose another `of`, or remainder="dense" or "share".'
            )
        case Blocks(shape=(high, wide), remainder="refuse") if inputs % high or outputs % wide:
            raise ValueError(
                f"tiles of {high} × {wide} do not divide {inputs} inputs × {outputs} outputs, its "
                'last two axes. Choose another shape, or remainder="share".'
            )


def _pattern(
    given: Any, per: Callable[[Density], Pattern], regex: str, purpose: str
) -> Pattern | None:
    if given is None or given is False:
        return None
    if isinstance(given, Neighbours) and given.axis != -2:
        raise ValueError(
            f"{purpose}: rule {regex!r} has neighbours along axis {given.axis}, but which axes are "
            "inputs is read from the function: leave `axis` out."
        )
    if isinstance(given, Pattern):
        return given
    if given is True or not isinstance(given, int | float):
        raise TypeError(
            f"{purpose}: rule {regex!r} says {given!r}; it has to be a pattern, as "
            "Neighbours(2, 4), a density, or None for leaves that are left alone."
        )
    return per(given)


def _best_of_matrices(scores: Scores, k: Count) -> Mask:
    if scores.ndim == 2:
        return topk_mask(scores, k)
    stack = gathered(scores, range(scores.ndim - 2)).reshape(-1, *scores.shape[-2:])
    masks = lax.map(lambda matrix: topk_mask(matrix, k), stack)
    return placed_as(masks.reshape(scores.shape), scores)


def _best_of_outputs(scores: Scores, k: Count) -> Mask:
    # Where an axis is mapped over, explicit mesh axes may split no other.
    stack = gathered(scores, range(scores.ndim)).reshape(-1, *scores.shape[-2:])
    columns = jax.vmap(lambda column: topk_mask(column, k), in_axes=-1, out_axes=-1)
    return placed_as(lax.map(columns, stack).reshape(scores.shape), scores)


# Compiled once for all numbers of places, also where the caller does not compile.
_matrices, _outputs = jax.jit(_best_of_matrices), jax.jit(_best_of_outputs)
_neighbours = jax.jit(nm_mask, static_argnames=("of", "axis", "remainder"))
_tiles = jax.jit(tile_mask, static_argnames=("shape", "remainder"))
