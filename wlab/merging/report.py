"""How far models have gone from their base, and how much they disagree: a row a leaf."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import jax.numpy as jnp

from wlab import tree
from wlab.merging.agreement import refuse_disagreement
from wlab.merging.arrays import mean_cosine, norm, widened
from wlab.merging.deltas import sign_conflicts
from wlab.merging.parent import Parent, is_float, named, values
from wlab.table import Table
from wlab.tree.paths import Tree


def report(trees: Sequence[Tree | Parent], base: Tree | Parent) -> Table:
    """The length of each model's change, and how the changes of the models agree.

    Columns: the norm ‖x − x₀‖ for each model; `cosine`, between two changes, averaged over the
    pairs; `conflicts`, the share of entries that one model raised and another lowered, of
    those that any changed. None where nothing changed, or for a single model. Leaves that are
    no floats have no row.

    Args:
        trees: The models, as trees or `Parent`s; leaves may be `Readable`s in a dict.
        base: What they were tuned from.

    Raises:
        ValueError: If there is no model, or as `merge`.
    """
    if not trees:
        raise ValueError("report: there is no model beside the base.")
    parents = [_flat(named(model, f"model {i}")) for i, model in enumerate(trees)]
    origin = _flat(named(base, "base"))
    refuse_disagreement([*parents, origin], mixed_dtypes=True)
    paths = [path for path, leaf in origin.weights.items() if is_float(leaf)]
    rows = tuple((path, *_row(path, parents, origin)) for path in paths)
    norms = [f"norm {parent.name}" for parent in parents]
    return Table(("path", *norms, "cosine", "conflicts"), rows)


def _row(path: str, parents: list[Parent], origin: Parent) -> tuple[Any, ...]:
    base, *models = widened([values(origin, path), *(values(p, path) for p in parents)])
    deltas = [x - base for x in models]
    norms = [float(norm(delta)) for delta in deltas]
    if len(deltas) < 2 or not any(norms):
        return (*norms, None, None)
    changed = jnp.count_nonzero(reduce(jnp.logical_or, [delta != 0 for delta in deltas]))
    conflicts = int(jnp.count_nonzero(sign_conflicts(deltas))) / int(changed)
    return (*norms, float(mean_cosine(deltas)), conflicts)


def _flat(parent: Parent) -> Parent:
    return replace(parent, weights=tree.leaves(parent.weights))
