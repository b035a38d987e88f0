"""Averages of whole models: all, those that help, or a sequence in one pass."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
from jaxtyping import Array

from wlab import tree
from wlab.merging.agreement import refuse_disagreement
from wlab.merging.arrays import widened
from wlab.merging.merge import merge
from wlab.merging.methods import Linear
from wlab.merging.parent import LeafLike, Parent, dtype_of, is_float, named, raw, shape_of, values
from wlab.tree.paths import Tree


class Soup(NamedTuple):
    """What `greedy_soup` cooked.

    Attributes:
        params: The mean of the members.
        members: Their places in what was given, in the order they went in.
        score: The score of the mean.
    """

    params: Tree
    members: tuple[int, ...]
    score: float


def uniform_soup(trees: Sequence[Tree | Parent]) -> Tree:
    """The plain mean of all models.

    Raises:
        ValueError: As `merge`.

    Reference:
        Wortsman et al. 2022 (arXiv:2203.05482).
    """
    return merge(Linear(), trees)


def greedy_soup(trees: Sequence[Tree | Parent], score: Callable[[Tree], float]) -> Soup:
    """Puts models into a mean one by one, the best first, and keeps those that do not hurt.

    The mean scores at least as well as the best model. The score selects, so take it from
    data that is not the test set.

    Args:
        trees: The models.
        score: Called once for each model and once for each mean that is tried; higher is
            better. Of equal models the earlier one comes first.

    Raises:
        ValueError: As `merge`, or if a score is NaN.

    Reference:
        Wortsman et al. 2022 (arXiv:2203.05482), recipe 1. The authors' program takes a model
        in only if the score increases.
    """
    bare = [model.weights if isinstance(model, Parent) else model for model in trees]
    merge(Linear(), trees)  # refuses what cannot be averaged before anything is scored
    alone = [_score(score, params) for params in bare]
    order = sorted(range(len(bare)), key=lambda i: -alone[i])
    soup = Soup(bare[order[0]], (order[0],), alone[order[0]])
    for i in order[1:]:
        members = (*soup.members, i)
        params = merge(Linear(), [trees[member] for member in members])
        found = _score(score, params)
        if found >= soup.score:
            soup = Soup(params, members, found)
    return soup


def ema(checkpoints: Iterable[Tree | Parent], decay: float) -> Tree:
    r"""The exponential moving average of checkpoints, in one pass and constant memory.

    $m_0 = x_0$, $m_k = d\,m_{k-1} + (1-d)\,x_k$ in float32, given out in the dtypes of the
    first. Equal checkpoints give themselves. Leaves that are no floats are the last one's.

    Args:
        checkpoints: Trees in the order of training; a generator reads them one at a time.
        decay: d, in [0, 1). About the last 1/(1-d) checkpoints count.

    Raises:
        ValueError: If the decay is outside [0, 1), there is no checkpoint, or one differs from
            the first in names, shapes or dtypes or holds NaN or infinity.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema: the decay must be in [0, 1), got {decay}.")

    def step(mean: Array | None, parent: Parent, path: str) -> Array:
        (x,) = widened([values(parent, path)])
        return x if mean is None else mean + (1 - decay) * (x - mean)

    header, shapes, mean = None, None, {}
    for i, checkpoint in enumerate(checkpoints):
        parent = named(checkpoint, f"checkpoint {i}")
        flat = replace(parent, weights=tree.leaves(parent.weights))
        refuse_disagreement([flat] if header is None else [header, flat])
        if header is None:
            shapes = jax.tree.map(_shape, parent.weights)
            header = replace(parent, weights=tree.leaves(shapes))
        for path, leaf in flat.weights.items():
            mean[path] = step(mean.get(path), flat, path) if is_float(leaf) else raw(leaf)
    if header is None:
        raise ValueError("ema: there is no checkpoint.")
    floats = {path: leaf.dtype for path, leaf in header.weights.items() if is_float(leaf)}
    cast = {path: mean[path].astype(dtype) for path, dtype in floats.items()}
    return tree.replace(shapes, mean | cast)


def _score(score: Callable[[Tree], float], params: Tree) -> float:
    found = float(score(params))
    if found != found:
        raise ValueError("greedy_soup: a score is NaN, which cannot be compared.")
    return found


def _shape(leaf: LeafLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape_of(leaf), dtype_of(leaf))
