"""Which entries compete for a place: all of a leaf, those of one output, or a few neighbours."""

from collections.abc import Callable
from functools import partial
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
Pattern: TypeAlias = Callable[[Scores], Mask]
"""Chooses, of the scores of a leaf as a matrix (or a stack of them), the entries that stay."""


def per_leaf(density: float) -> Pattern:
    """All entries of a matrix compete.

    Raises:
        ValueError: If the density is outside [0, 1].
    """
    refuse_bad_density(density)

    def choose(scores: Scores) -> Mask:
        k = kept(scores.shape[-2] * scores.shape[-1], density)
        return _over_batches(lambda matrix: topk_mask(matrix, k), scores)

    return choose


def per_output(density: float) -> Pattern:
    """The inputs of each output compete, as Wanda has it: every column keeps as many.

    Raises:
        ValueError: If the density is outside [0, 1].
    """
    refuse_bad_density(density)

    def choose(scores: Scores) -> Mask:
        k = kept(scores.shape[-2], density)
        columns = jax.vmap(lambda column: topk_mask(column, k), in_axes=-1, out_axes=-1)
        return _over_batches(columns, scores)

    return choose


def neighbours(*, keep: int, of: int, remainder: Remainder = "refuse") -> Pattern:
    """`of` neighbouring inputs of each output compete for `keep` places: N:M sparsity.

    Raises:
        ValueError: As `nm_mask`.
    """
    _refuse_bad_groups(keep, of)
    return partial(nm_mask, keep=keep, of=of, axis=-2, remainder=remainder)


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


def _over_batches(f: Pattern, scores: Scores) -> Mask:
    """One matrix at a time; a stack is a loop, so that one at a time is in memory."""
    matrices = scores.reshape(-1, *scores.shape[-2:])
    return lax.map(f, matrices).reshape(scores.shape)


def _refuse_bad_groups(keep: int, of: int) -> None:
    if of < 1 or not 0 <= keep <= of:
        raise ValueError(f"N:M keeps 0 to `of` of every `of` >= 1 neighbours, got {keep} of {of}.")
