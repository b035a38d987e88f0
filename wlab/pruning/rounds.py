"""Which entries stay in a round of pruning: budgets and patterns on their way to the last."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from wlab.pruning.allocation import Allocation, Budget, Shape
from wlab.pruning.budget import Count, Density
from wlab.pruning.choosing import largest
from wlab.pruning.patterns import Neighbours, Pattern, chosen
from wlab.pruning.shares import budgets


def masks_in_round(
    scores: Mapping[str, Float[Array, "..."]],
    shares: Mapping[str, Any],
    density: Density,
    allocation: Allocation,
    part: float,
) -> dict[str, Bool[Array, "..."]]:
    """The entries that stay when a part of the way is done, by path.

    Densities are d^part on the way; N:M keeps ⌈of · (keep / of)^part⌉.

    Args:
        scores: Of each leaf.
        shares: True, a density or a pattern of each leaf.
        density: Of the leaves whose share is True.
        allocation: How it is divided.
        part: In (0, 1]; 1 is the last round, whose counts are exact.

    Raises:
        ValueError: If a leaf with a pattern has fewer than two axes, or its groups do not divide.
    """
    patterns = {path: share for path, share in shares.items() if isinstance(share, Pattern)}
    ranked = {path: share for path, share in shares.items() if path not in patterns}
    shapes = {path: scores[path].shape for path in ranked}
    due = _due(ranked, shapes, density, allocation, part)
    counts = [_within_int32(k) for _, k in due]
    competing = tuple(paths for paths, _ in due)
    masks = _largest({path: scores[path] for path in ranked}, counts, competing=competing)
    masks |= {path: _in_pattern(path, scores[path], p, part) for path, p in patterns.items()}
    return {path: masks[path] for path in scores}


def _due(
    shares: Mapping[str, Density],
    shapes: Mapping[str, Shape],
    density: Density,
    allocation: Allocation,
    part: float,
) -> list[Budget]:
    last = budgets(shares, shapes, density, allocation)
    if part == 1:
        return last
    running = {p: s if s is True else s**part for p, s in shares.items()}
    now = budgets(running, shapes, density**part, allocation)
    # Rounding may leave a leaf one weight fewer on the way than in the end.
    return [Budget(b.paths, _larger(b.k, end.k)) for b, end in zip(now, last, strict=True)]


@partial(jax.jit, static_argnames="competing")
def _largest(
    scores: dict[str, Array], counts: Sequence[Count], *, competing: tuple[tuple[str, ...], ...]
) -> dict[str, Bool[Array, "..."]]:
    """Compiled with counts as data, so that all rounds share what is compiled."""
    return largest(scores, [Budget(*due) for due in zip(competing, counts, strict=True)])


def _within_int32(k: Count) -> Count:
    """As many scores cannot be ranked, which is for the ranking to say."""
    return min(k, np.iinfo(np.int32).max) if isinstance(k, int) else k


def _larger(one: Count, other: Count) -> Count:
    if isinstance(one, jax.Array) or isinstance(other, jax.Array):
        return jnp.maximum(one, other)
    return max(one, other)


def _in_pattern(
    path: str, scores: Float[Array, "..."], pattern: Pattern, part: float
) -> Bool[Array, "..."]:
    if scores.ndim < 2:
        raise ValueError(
            f"prune: leaf {path!r} of shape {scores.shape} is no matrix, which {pattern} needs. "
            "Give it a density, or leave it out by a rule."
        )
    try:
        return chosen(_running(pattern, part), scores)
    except ValueError as error:
        raise ValueError(f"prune: leaf {path!r} of shape {scores.shape}: {error}") from None


def _running(pattern: Pattern, part: float) -> Pattern:
    if part == 1:
        return pattern
    if isinstance(pattern, Neighbours):
        keep = math.ceil(pattern.of * (pattern.keep / pattern.of) ** part)
        return replace(pattern, keep=keep)
    return replace(pattern, density=pattern.density**part)
