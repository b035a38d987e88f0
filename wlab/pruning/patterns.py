"""Which entries compete for a place: all of a leaf, those of one output, or a few neighbours."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from wlab.pruning.budget import kept, refuse_bad_density
from wlab.pruning.order import ordered_keys
from wlab.pruning.selection import topk_mask

Remainder = Literal["refuse", "dense", "share"]
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

    density: float

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

    density: float

    def __post_init__(self) -> None:
        refuse_bad_density(self.density)


@dataclass(frozen=True)
class Neighbours:
    """`of` neighbouring inputs of each output compete for `keep` places: N:M sparsity.

    Attributes:
        keep: Entries kept of each group.
        of: Neighbours in a group.
        remainder: What becomes of a last short group, as in `nm_mask`.

    Raises:
        ValueError: If `keep` is not from 0 to `of`.
    """

    keep: int
    of: int
    remainder: Remainder = "refuse"

    def __post_init__(self) -> None:
        _refuse_bad_groups(self.keep, self.of)


Pattern: TypeAlias = PerLeaf | PerOutput | Neighbours
"""Which entries of a leaf, as a matrix of inputs by outputs, compete for a place."""


def chosen(pattern: Pattern, scores: Scores) -> Mask:
    """The entries of a matrix that stay; of a stack, those of each matrix by itself.

    A stack is a loop, so that what choosing needs is in memory for one matrix at a time.
    """
    matrices = scores.reshape(-1, *scores.shape[-2:])
    return lax.map(lambda matrix: chosen_rows(pattern, matrix), matrices).reshape(scores.shape)


def chosen_rows(
    pattern: Pattern, scores: Float[Array, "rows outputs"], start: int = 0
) -> Bool[Array, "rows outputs"]:
    """The entries that stay of a matrix's rows from `start` on, which compete among themselves.

    If all rows have had their turn, block by block, densities are met exactly.
    """
    rows, outputs = scores.shape
    stop = start + rows
    match pattern:
        case PerLeaf(density):
            return topk_mask(scores, kept(stop * outputs, density) - kept(start * outputs, density))
        case PerOutput(density):
            k = kept(stop, density) - kept(start, density)
            return jax.vmap(lambda column: topk_mask(column, k), in_axes=-1, out_axes=-1)(scores)
        case Neighbours(keep, of, remainder):
            return nm_mask(scores, keep=keep, of=of, axis=0, remainder=remainder)


def nm_mask(
    scores: Float[Array, "*shape"],
    *,
    keep: int,
    of: int,
    axis: int = -1,
    remainder: Remainder = "refuse",
) -> Bool[Array, "*shape"]:
    """Keeps the `keep` largest of every `of` neighbours along an axis; 2:4 is `keep=2, of=4`.

    Exact in every group; ties go to the lower index, NaN ranks first. Nothing is sorted: each
    entry counts the neighbours that go before it.

    Args:
        scores: Larger is kept.
        keep: Entries kept of each group.
        of: Neighbours in a group.
        axis: Along which neighbours stand: the one that is summed over, for hardware.
        remainder: What becomes of a last group of r < `of` entries: an error, all of it kept,
            or ⌈keep · r / of⌉ of it kept.

    Raises:
        ValueError: If `keep` is not from 0 to `of`, or `of` does not divide the axis and
            `remainder` is "refuse".
        TypeError: If the scores are not float32, bfloat16 or float16.

    Reference:
        Mishra et al. 2021 (arXiv:2104.08378).
    """
    _refuse_bad_groups(keep, of)
    moved = jnp.moveaxis(scores, axis, -1)
    rest = moved.shape[-1] % of
    if rest and remainder == "refuse":
        raise ValueError(
            f"nm_mask: groups of {of} do not divide an axis of {moved.shape[-1]}. Choose another "
            'axis, or remainder="dense" or "share".'
        )
    whole = moved.shape[-1] - rest
    groups = moved[..., :whole].reshape(*moved.shape[:-1], whole // of, of)
    mask = _largest(groups, keep).reshape(*moved.shape[:-1], whole)
    if rest:
        kept = rest if remainder == "dense" else -(-keep * rest // of)
        mask = jnp.concatenate([mask, _largest(moved[..., whole:], kept)], axis=-1)
    return jnp.moveaxis(mask, -1, axis)


def _largest(groups: Float[Array, "*groups of"], keep: int) -> Bool[Array, "*groups of"]:
    """The largest of the last axis, by counting for each entry those that go before it."""
    keys, size = ordered_keys(groups), groups.shape[-1]
    place = lax.broadcasted_iota(jnp.int32, keys.shape, keys.ndim - 1)
    before = jnp.zeros(keys.shape, jnp.int8 if size < 128 else jnp.int32)
    for j in range(size):
        other = keys[..., j : j + 1]
        ahead = (other > keys) | ((other == keys) & (place > j))
        before = before + ahead.astype(before.dtype)
    return before < keep


def _refuse_bad_groups(keep: int, of: int) -> None:
    if of < 1 or not 0 <= keep <= of:
        raise ValueError(f"N:M keeps 0 to `of` of every `of` >= 1 neighbours, got {keep} of {of}.")
