"""A density for each leaf, from what the network loses if that leaf is pruned."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from wlab import tree

Point: TypeAlias = tuple[float, float]  # a density and a loss


def by_sensitivity(
    curves: tree.Table, costs: Mapping[str, int | float], budget: int | float
) -> list[tuple[str, float | None]]:
    """Rules with a density for each leaf: the least loss within a budget.

    Losses are taken to add up over leaves, and between the densities that were measured to lie on
    the straight lines below each curve (its convex hull). Every leaf begins where its loss is
    least; then whichever leaf loses least for what it saves is pruned on, until the budget is met.
    Of such curves no other densities lose less.

    Args:
        curves: Of `sensitivity`.
        costs: Of each whole leaf: its weights, bytes, FLOPs; in proportion to the density.
        budget: Of all leaves of `curves` together, in the unit of `costs`.

    Raises:
        ValueError: If a value is not finite, a leaf has no cost above zero, or even the smallest
            densities cost more than the budget.
    """
    hulls = {path: _hull(points) for path, points in _points(curves).items()}
    for path in hulls:
        if costs.get(path, 0) <= 0:
            raise ValueError(f"by_sensitivity: {path!r} has no cost above zero in `costs`.")
    least = sum(costs[path] * hull[-1][0] for path, hull in hulls.items())
    if least > budget * (1 + 1e-9):  # not for rounding alone
        raise ValueError(
            f"by_sensitivity: the smallest densities that were measured cost {least:,}, over "
            f"{budget:,}. Measure smaller ones."
        )
    densities = {path: hull[0][0] for path, hull in hulls.items()}
    excess = sum(costs[path] * density for path, density in densities.items()) - budget
    for _, path, start, stop in sorted(_segments(hulls, costs)):
        if excess <= 0:
            break
        saved = min(excess, costs[path] * (start - stop))
        densities[path] = max(start - saved / costs[path], stop)
        excess -= saved
    return [*((re.escape(path), density) for path, density in densities.items()), (".*", None)]


def _points(curves: tree.Table) -> dict[str, list[Point]]:
    """What was measured of each leaf, from the smallest density up."""
    points: dict[str, dict[float, float]] = {}
    for row in curves.records():
        path, density, value = row["path"], float(row["density"]), float(row["value"])
        if not np.isfinite(value):
            raise ValueError(f"by_sensitivity: {path!r} has {value} at density {density}.")
        points.setdefault(path, {})[density] = value
    return {path: sorted(found.items()) for path, found in points.items()}


def _hull(points: Sequence[Point]) -> list[Point]:
    """The lower convex hull, from where the loss is least down to the smallest density."""
    best = min(range(len(points)), key=lambda i: points[i][1])
    hull: list[Point] = []
    for point in reversed(points[: best + 1]):
        while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(dense: Point, sparse: Point) -> float:
    """What is lost by a unit of density."""
    return (sparse[1] - dense[1]) / (dense[0] - sparse[0])


def _segments(
    hulls: Mapping[str, Sequence[Point]], costs: Mapping[str, int | float]
) -> list[tuple[float, str, float, float]]:
    """What is lost for what is saved, the leaf, and from which density to which."""
    return [
        (_slope(dense, sparse) / costs[path], path, dense[0], sparse[0])
        for path, hull in hulls.items()
        for dense, sparse in pairwise(hull)
    ]
