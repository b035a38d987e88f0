"""Allocations: which leaves compete, and for how many weights.

An allocation maps the shapes of the prunable leaves and a density to budgets. Each budget's
leaves are ranked together, so a new allocation is a new function and nothing else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from wlab.pruning.budget import Count, Density, kept

Shape: TypeAlias = tuple[int, ...]


class Budget(NamedTuple):
    """The leaves that are ranked together and how many of their weights are kept."""

    paths: tuple[str, ...]
    k: Count


Allocation: TypeAlias = Callable[[Mapping[str, Shape], Density], list[Budget]]


def uniform(shapes: Mapping[str, Shape], density: Density) -> list[Budget]:
    """Gives every leaf the same density."""
    return [Budget((path,), kept(math.prod(shape), density)) for path, shape in shapes.items()]


def globally(shapes: Mapping[str, Shape], density: Density) -> list[Budget]:
    """Ranks all leaves together: the largest weights of the whole stay, wherever they are."""
    return [Budget(tuple(shapes), kept(sum(map(math.prod, shapes.values())), density))]


def erk(shapes: Mapping[str, Shape], density: Density) -> list[Budget]:
    """Gives a leaf weights in proportion to the sum of its dimensions: Erdős–Rényi-Kernel.

    k_i = min(size_i, ε · Σ dims_i), with ε such that the budgets add up to the density of
    the whole. Small leaves stay denser. Of a matrix this is plain Erdős–Rényi.

    Reference:
        Evci et al. 2020, RigL (arXiv:1911.11134), section 3.
    """
    return _in_proportion(shapes, density, [sum(shape) or 1 for shape in shapes.values()])


def erdos_renyi(shapes: Mapping[str, Shape], density: Density) -> list[Budget]:
    """Gives a leaf a density in proportion to (inputs + outputs) / (inputs · outputs).

    As `erk`, but kernel axes don't count: inputs and outputs are the last two axes, and
    k_i = min(size_i, ε · (inputs + outputs) · Π kernel dims_i). Leaves of one axis have one input.

    Reference:
        Mocanu et al. 2018, SET (arXiv:1707.04780), equation 1; of convolutions, Evci et al. 2020
        (arXiv:1911.11134), section 3.
    """
    weights = [(sum(shape[-2:]) or 1) * math.prod(shape[:-2]) for shape in shapes.values()]
    return _in_proportion(shapes, density, weights)


def split(total: Count, weights: Sequence[float | int], sizes: Sequence[int]) -> list[Count]:
    """Divides `total` in proportion to `weights`, none above its size; adds up exactly.

    What is cut off at full leaves goes to the others. Each share is rounded to nearest; what
    the rounding leaves over goes to the first leaves with room.
    """
    traced = isinstance(total, jax.Array)
    xp: Any = jnp if traced else np
    real, whole = (xp.float32, xp.int32) if traced else (xp.float64, xp.int64)
    # The filled amount is piecewise linear in the level, with a corner where a leaf is full.
    levels = np.sort(np.divide(sizes, weights))
    filled = np.minimum(levels[:, None] * np.array(weights), sizes).sum(axis=1)
    corners = [xp.asarray([0, *values], real) for values in (filled, levels)]
    level = xp.interp(xp.asarray(total, real), *corners)
    share = xp.minimum(xp.round(level * xp.asarray(weights, real)).astype(whole), xp.asarray(sizes))
    left, room = total - xp.sum(share), xp.asarray(sizes) - share
    share += xp.clip(left - _before(xp, room), 0, room)
    share -= xp.clip(-left - _before(xp, share), 0, share)
    return [share[i] if traced else int(share[i]) for i in range(len(sizes))]


def _in_proportion(
    shapes: Mapping[str, Shape], density: Density, weights: Sequence[int]
) -> list[Budget]:
    sizes = [math.prod(shape) for shape in shapes.values()]
    counts = split(kept(sum(sizes), density), weights, sizes)
    return [Budget((path,), k) for path, k in zip(shapes, counts, strict=True)]


def _before(xp: Any, values: Any) -> Any:
    return xp.cumsum(values) - values
