"""Structured pruning: which channels, heads and hidden units stay."""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from wlab import tree
from wlab.graph import Groups, Keep, Member
from wlab.pruning.budget import Density, kept, refuse_bad_density
from wlab.pruning.shares import Share, is_pruned
from wlab.transform import Params

UnitScores: TypeAlias = Mapping[str, Float[np.ndarray, "_"]]


def unit_scores(groups: Groups, scores: Params) -> dict[str, Float[np.ndarray, "_"]]:
    """The sum of the scores of all weights that a unit is made of, by the name of its group.

    With squared weights this is the group norm of a unit with all that is coupled to it; with
    weight times gradient, what the loss would change by to first order.

    Args:
        groups: Of the function.
        scores: A score for each weight, in a tree like the parameters.

    Raises:
        ValueError: If a score is not finite.

    Reference:
        Fang et al. 2023, DepGraph (arXiv:2301.12900), section 3.3; Molchanov et al. 2019
        (arXiv:1906.10771).
    """
    leaves = {path: np.asarray(leaf, np.float64) for path, leaf in tree.leaves(scores).items()}
    for path, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise ValueError(f"unit_scores: a score of {path!r} is not finite.")
    return {
        name: np.sum([_of_slices(leaves[m.path], m) for m in group.members], axis=0)
        for name, group in groups.groups.items()
    }


def best_units(
    groups: Groups,
    scores: UnitScores,
    density: Density,
    rules: tree.Rules[Share] | None = None,
    *,
    round_to: int = 1,
) -> dict[str, Bool[np.ndarray, "_"]]:
    """Which units stay: in each group those that score highest.

    Args:
        groups: Of the function.
        scores: Of every unit, as `unit_scores` gives them.
        density: The fraction that stays of the selected groups.
        rules: Ordered `(regex of a group's name, share)`. True: to the density. A number: to its
            own. None or False: left whole. Without them every group that the network makes.
        round_to: As many stay as are a multiple of this, nearest to the density but at least one
            multiple, so that the hardware has whole vectors; a smaller group stays whole.

    Raises:
        ValueError: If a density is outside [0, 1], the rules do not fit the groups or select
            none, or `round_to` is below 1.
    """
    refuse_bad_density(density)
    if round_to < 1:
        raise ValueError(f"best_units: round_to is a number of units, at least 1; got {round_to}.")
    found = {}
    for name, share in _shares(groups, rules).items():
        own = density if share is True else share
        refuse_bad_density(own, f"density of {name!r}")
        found[name] = _largest(scores[name], _rounded(groups.groups[name].size, own, round_to))
    return found


def units_within(
    budget: int | float,
    choose: Callable[[float], Keep],
    cost: Callable[[Keep], int | float],
    *,
    steps: int = 12,
) -> Keep:
    """The units of the largest density whose cost is within a budget.

    Args:
        budget: Of FLOPs, weights, bytes: in whatever unit `cost` counts.
        choose: Which units stay at a density, as `best_units` with all but the density given.
        cost: Of the network with these units.
        steps: Halvings of the interval of densities.

    Raises:
        ValueError: If no density is within the budget.
    """
    low, high = 0.0, 1.0
    if cost(choose(high)) <= budget:
        return choose(high)
    best = choose(low)
    if (least := cost(best)) > budget:
        raise ValueError(f"units_within: the least network costs {least:,}, over {budget:,}.")
    for _ in range(steps):
        middle = (low + high) / 2
        tried = choose(middle)
        if cost(tried) <= budget:
            low, best = middle, tried
        else:
            high = middle
    return best


def _of_slices(leaf: Float[np.ndarray, "..."], member: Member) -> Float[np.ndarray, "_"]:
    others = tuple(i for i in range(leaf.ndim) if i != member.axis)
    return leaf.sum(axis=others)[member.positions].sum(axis=1)


def _shares(groups: Groups, rules: tree.Rules[Share] | None) -> dict[str, Share]:
    """The share of every group that loses units."""
    if rules is None:
        shares: dict[str, Share] = {name: group.made for name, group in groups.groups.items()}
    else:
        shares = tree.match(rules, list(groups.groups), purpose="best_units")
    pruned = {name: share for name, share in shares.items() if is_pruned(share)}
    if not pruned:
        raise ValueError(f"best_units: the rules select none of the groups {list(groups.groups)}.")
    return pruned


def _rounded(size: int, density: Density, multiple: int) -> int:
    if size <= multiple:
        return size if multiple > 1 else max(int(kept(size, density)), 1)
    whole = math.floor(int(kept(size, density)) / multiple + 0.5) * multiple
    return min(max(whole, multiple), size)


def _largest(scores: Float[np.ndarray, "_"], k: int) -> Bool[np.ndarray, "_"]:
    """The k largest; ties go to the lower index."""
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[:k]] = True
    return chosen
