"""N:M masks: a few of every group of neighbours, chosen without a sort."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from wlab.pruning.budget import Count
from wlab.pruning.order import ordered_keys
from wlab.pruning.shards import in_whole_groups, joined_axes, placed_as, split_axis

Remainder = Literal["refuse", "dense", "share"]


def nm_mask(
    scores: Float[Array, "*shape"],
    *,
    keep: Count,
    of: int,
    axis: int = -1,
    remainder: Remainder = "refuse",
) -> Bool[Array, "*shape"]:
    """Keeps the `keep` largest of every `of` neighbours along an axis; 2:4 is `keep=2, of=4`.

    Exact in every group; ties go to the lower index, NaN ranks first. Nothing is sorted: each
    entry counts the neighbours that go before it.

    Args:
        scores: Larger is kept.
        keep: Entries kept of each group; may be traced.
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
    refuse_bad_groups(keep, of)
    moved = in_whole_groups(jnp.moveaxis(scores, axis, -1), -1, of)
    rest = moved.shape[-1] % of
    if rest and remainder == "refuse":
        raise ValueError(
            f"nm_mask: groups of {of} do not divide an axis of {moved.shape[-1]}. Choose another "
            'axis, or remainder="dense" or "share".'
        )
    whole = moved.shape[-1] - rest
    groups = split_axis(moved[..., :whole] if rest else moved, -1, of)
    mask = joined_axes(_largest(groups, keep), scores.ndim - 1)
    if rest:
        kept = rest if remainder == "dense" else -(-keep * rest // of)
        mask = jnp.concatenate([mask, _largest(moved[..., whole:], kept)], axis=-1)
    return placed_as(jnp.moveaxis(mask, -1, axis), scores)


def refuse_bad_groups(keep: Count, of: int) -> None:
    """Raises a ValueError unless 0 <= keep <= of and of >= 1; a traced `keep` passes."""
    if of < 1 or not (isinstance(keep, jax.Array) or 0 <= keep <= of):
        raise ValueError(f"N:M keeps 0 to `of` of every `of` >= 1 neighbours, got {keep} of {of}.")


def _largest(groups: Float[Array, "*groups of"], keep: Count) -> Bool[Array, "*groups of"]:
    """The largest of the last axis, by counting for each entry those that go before it."""
    keys, size = ordered_keys(groups), groups.shape[-1]
    place = lax.broadcasted_iota(jnp.int32, keys.shape, keys.ndim - 1)
    before = jnp.zeros(keys.shape, jnp.int8 if size < 128 else jnp.int32)
    for j in range(size):
        other = keys[..., j : j + 1]
        ahead = (other > keys) | ((other == keys) & (place > j))
        before = before + ahead.astype(before.dtype)
    return before < (keep.astype(before.dtype) if isinstance(keep, jax.Array) else keep)
