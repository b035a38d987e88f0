"""How alike two masks are: what both keep, of what either keeps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from wlab import tree
from wlab.tree.paths import Tree


class Shared(NamedTuple):
    """Counts of the entries of a leaf: all, those kept in each of two trees, those in both."""

    weights: int
    one: int
    other: int
    both: int


def shared(one: Any, other: Any) -> Shared:
    """Counts what two arrays, or masks, of one shape keep; zeros are not kept."""
    a, b = np.asarray(one) != 0, np.asarray(other) != 0
    return Shared(a.size, *(int(np.count_nonzero(mask)) for mask in (a, b, a & b)))


def overlap(one: Tree, other: Tree) -> tree.Table:
    """A row a leaf, and one for all of them; see `overlap_table`.

    Args:
        one: Weights or masks: what is not zero is kept.
        other: Likewise, of the same paths and shapes.

    Raises:
        ValueError: If a path is in one tree only, or its shapes differ.
    """
    a, b = tree.leaves(one), tree.leaves(other)
    for path in (*a, *b):
        shapes = [np.shape(leaves[path]) if path in leaves else None for leaves in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"overlap: leaf {path!r} has the shapes {shapes[0]} and {shapes[1]}. Give two "
                "trees of the same leaves."
            )
    return overlap_table({path: shared(a[path], b[path]) for path in a})


def overlap_table(leaves: Mapping[str, Shared]) -> tree.Table:
    """Intersection over union of two masks, beside that of independent ones of their densities.

    overlap = |A ∩ B| / |A ∪ B|, 1 of two empty masks; by chance |A ∩ B| = |A| · |B| / n. "all"
    adds up the counts of the leaves.
    """
    chance = {path: leaf.one * leaf.other / max(leaf.weights, 1) for path, leaf in leaves.items()}
    total = Shared(*(sum(leaf[i] for leaf in leaves.values()) for i in range(4)))
    rows = [_row(path, leaf, chance[path]) for path, leaf in leaves.items()]
    columns = ("path", *Shared._fields, "overlap", "by_chance")
    return tree.Table(columns, (*rows, _row("all", total, sum(chance.values()))))


def _row(name: str, leaf: Shared, chance: float) -> tuple[Any, ...]:
    def of_union(both: int | float) -> float:
        union = leaf.one + leaf.other - both
        return both / union if union else 1.0

    return (name, *leaf, of_union(leaf.both), of_union(chance))
