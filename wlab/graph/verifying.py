"""Units whose weights are zero, and whether a network without them says the same."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from wlab import tree
from wlab.graph.distance import distance
from wlab.graph.groups import Groups, Keep, Member
from wlab.graph.shrinking import shrink
from wlab.transform import Params


def masks(groups: Groups, keep: Keep) -> dict[str, Bool[np.ndarray, "..."]]:
    """Which weights stay, by path: of each leaf that loses any.

    Raises:
        ValueError: As `shrink`.
    """
    return {
        path: reduce(np.logical_and.outer, axes, np.ones((), bool))
        for path, axes in groups.kept(keep).items()
        if not all(axis.all() for axis in axes)
    }


def masked(groups: Groups, keep: Keep, params: Params) -> Params:
    """The network at its full size, with the weights zero of the units that do not stay.

    Raises:
        ValueError: As `shrink`.
    """
    leaves = tree.leaves(params)
    less = {path: jnp.where(m, leaves[path], 0) for path, m in masks(groups, keep).items()}
    return tree.replace(params, less)


def emptied(
    groups: Groups, params: Params, *, where: Callable[[str], bool] = lambda path: True
) -> dict[str, Bool[np.ndarray, "_"]]:
    """Which units stay if those go of which every weight is zero: what `shrink` is to keep.

    A group of which nothing would be left keeps its first unit.

    Args:
        groups: Of the function.
        params: What is looked at.
        where: Whether a leaf counts, by its path; statistics of a norm do not.
    """
    leaves = tree.leaves(params)
    found = {}
    for name, group in groups.groups.items():
        looked_at = [_is_any(leaves[m.path], m) for m in group.members if where(m.path)]
        if not looked_at:
            continue
        alive = reduce(np.logical_or, looked_at)
        alive[0] |= not alive.any()
        if not alive.all():
            found[name] = alive
    return found


def verify(groups: Groups, keep: Keep, params: Params, *inputs: Any) -> float:
    """How far the smaller network is from the masked one: max |difference| / max |result|.

    Over all results that keep their shape.

    Raises:
        ValueError: As `shrink`.
    """
    small = shrink(groups, keep)
    expected = jax.jit(groups.graph.fn)(masked(groups, keep, params), *inputs)
    return distance(expected, jax.jit(small.fn)(small.params(params), *inputs))


def _is_any(leaf: Array, member: Member) -> Bool[np.ndarray, "_"]:
    """Whether any weight of each unit's slices is not zero."""
    others = tuple(i for i in range(leaf.ndim) if i != member.axis)
    return (np.asarray(leaf) != 0).any(axis=others)[member.positions].any(axis=1)
