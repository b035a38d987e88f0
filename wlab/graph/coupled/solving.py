"""Which positions can go, from what a walk has written down."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from wlab.graph.coupled.ledger import Axis, Labels, Ledger, Product

Unit = int  # a class of positions that live and die together, and on their own
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Coupling:
    """Every label's class, and the classes whose death is the death of another.

    Attributes:
        classes: Of each label.
        parents: Of the classes that are products: such a position goes if one of these goes.
        frozen: The classes that must stay, and why.
    """

    classes: Labels
    parents: dict[int, frozenset[int]]
    frozen: dict[int, str]

    def units(self, label: int) -> frozenset[Unit]:
        """The units with any of which a position goes."""
        return self._of_class(int(self.classes[label]))

    def _of_class(self, found: int) -> frozenset[Unit]:
        parents = self.parents.get(found)
        if parents is None:
            return frozenset({found})
        return frozenset(chain.from_iterable(self._of_class(parent) for parent in parents))

    def stay(self, dead: Iterable[Unit]) -> Bools:
        """Whether each class stays, without these units."""
        stay = np.ones(int(self.classes.max(initial=-1)) + 1, bool)
        stay[list(dead)] = False
        for found in self.parents:
            stay[found] = stay[list(self._of_class(found))].all()
        return stay

    def kept(self, axis: Axis, stay: Bools) -> Bools:
        """Whether each position of an axis stays."""
        kept = np.ones(1, bool)
        for factor in axis:
            kept = (kept[:, None] & stay[self.classes[factor]]).ravel()
        return kept


def solve(ledger: Ledger) -> Coupling:
    """Puts together what is one; what does not fit together must stay."""
    same = list(ledger.same)
    while True:
        classes = _classes(ledger.size, same)
        more = _cut_alike(ledger.products, classes)
        if not any((classes[a] != classes[b]).any() for a, b in more):
            break
        same += more
    parents, torn = _parents(ledger.products, classes)
    frozen = dict.fromkeys(torn, "it is cut in two ways that do not agree")
    for labels, reason in ledger.frozen:
        for found in np.unique(classes[labels]):
            frozen.setdefault(int(found), reason)
    return Coupling(classes, parents, _with_parents(frozen, parents))


def _classes(size: int, same: Sequence[tuple[Labels, Labels]]) -> Labels:
    from scipy.sparse import coo_array  # 20 MB, which most programs do without
    from scipy.sparse.csgraph import connected_components

    one, other = (np.concatenate([pair[i] for pair in same] or [np.zeros(0, int)]) for i in (0, 1))
    edges = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _cut_alike(products: Sequence[Product], classes: Labels) -> list[tuple[Labels, Labels]]:
    """What must be one because the same positions were cut in the same way."""
    first: dict[tuple[bytes, int], Product] = {}
    more = []
    for product in products:
        key = (classes[product.whole].tobytes(), len(product.outer))
        also = first.setdefault(key, product)
        more += [(product.outer, also.outer), (product.inner, also.inner)]
    return more


def _parents(
    products: Sequence[Product], classes: Labels
) -> tuple[dict[int, frozenset[int]], set[int]]:
    """The parents of each class that is a product, and all that do not fit together."""
    parents: dict[int, frozenset[int]] = {}
    torn: set[int] = set()
    for whole, outer, inner in products:
        rows, columns = classes[outer], classes[inner]
        for at, found in enumerate(classes[whole].tolist()):
            both = frozenset({int(rows[at // len(inner)]), int(columns[at % len(inner)])})
            if parents.setdefault(found, both) != both or found in both:
                torn |= {*both, *parents[found], found}
    return {found: both for found, both in parents.items() if found not in both}, torn


def _with_parents(frozen: dict[int, str], parents: dict[int, frozenset[int]]) -> dict[int, str]:
    """What stays, and what must stay for it."""
    left = list(frozen)
    while left:
        found = left.pop()
        for parent in parents.get(found, ()):
            if parent not in frozen:
                frozen[parent] = frozen[found]
                left.append(parent)
    return frozen
