"""Split a tree in two with holes, put it together again, and act on its copies elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wlab.tree.paths import Leaf, Tree, leaves, map_leaves, replace, suffixes


def partition(keep: Callable[[str, Leaf], bool], tree: Tree) -> tuple[Tree, Tree]:
    """Splits into (kept, rest); each has the tree's containers and None for the other's leaves."""
    kept = map_leaves(lambda path, leaf: leaf if keep(path, leaf) else None, tree)
    rest = map_leaves(lambda path, leaf: None if keep(path, leaf) else leaf, tree)
    return kept, rest


def merge(*trees: Tree) -> Tree:
    """Fills the holes of the first tree from the later ones: the inverse of `partition`."""
    return jax.tree.map(
        lambda *at: next((leaf for leaf in at if leaf is not None), None),
        *trees,
        is_leaf=lambda x: x is None,
    )


def matched(f: Callable[[Tree], Tree], tree: Tree, stored: Tree) -> Tree:
    """Applies `f`, a map of stored-shaped trees, to every copy of `stored` inside `tree`.

    A copy is the set of inexact leaves with one prefix whose paths end with stored paths and
    whose shapes agree: the moments of an optimizer, wrapped however deep, or an average.
    Leaves that a masked optimizer does not hold are filled from `stored` for the call.
    Everything else (counts, factored or stacked statistics) is left alone.
    """
    wanted = leaves(stored)
    new: dict[str, Leaf] = {}
    for prefix, copy in _copies(tree, wanted).items():
        result = leaves(f(replace(stored, copy)))
        new |= {prefix + path: result[path] for path in copy}
    return replace(tree, new)


def unmatched(tree: Tree, stored: Tree) -> list[str]:
    """Paths of the inexact arrays in `tree`, scalars aside, that `matched` leaves alone."""
    copies = _copies(tree, leaves(stored))
    found = {prefix + path for prefix, copy in copies.items() for path in copy}
    return [
        path
        for path, leaf in leaves(tree).items()
        if _is_inexact(leaf) and jnp.ndim(leaf) > 0 and path not in found
    ]


def _copies(tree: Tree, wanted: dict[str, Leaf]) -> dict[str, dict[str, Leaf]]:
    """The leaves of each copy by stored path, keyed by the copy's prefix."""
    fits: dict[str, dict[str, Leaf]] = {}
    for full, leaf in leaves(tree).items():
        for path in filter(wanted.__contains__, suffixes(full)):
            if _is_inexact(leaf) and jnp.shape(leaf) == jnp.shape(wanted[path]):
                fits.setdefault(full.removesuffix(path), {})[path] = leaf
    # A leaf fits twice where a module is called like a moment: the fuller copy has it.
    taken: set[str] = set()
    copies: dict[str, dict[str, Leaf]] = {}
    for prefix, fit in sorted(fits.items(), key=lambda item: -len(item[1])):
        copy = {path: leaf for path, leaf in fit.items() if prefix + path not in taken}
        taken |= {prefix + path for path in copy}
        if copy:
            copies[prefix] = copy
    return copies


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
