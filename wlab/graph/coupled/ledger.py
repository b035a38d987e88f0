"""What a walk through a function finds out about positions: which are one, which are products.

Every position of every axis has a label. Positions with one label, or with labels that are
written down as the same, are there or are not there together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
Axis: TypeAlias = tuple[Labels, ...]
"""The product of its factors, of which the last varies fastest. An axis of size 1 has none."""


class Product(NamedTuple):
    """Position (i, j) of an axis that was cut in two is there if i and j are."""

    whole: Labels
    outer: Labels
    inner: Labels


@dataclass
class Ledger:
    """Filled while a function is walked.

    Attributes:
        size: The number of labels.
        same: Labels that are one, pair by pair.
        products: Of axes that were cut or multiplied.
        frozen: Labels that must stay, and why.
    """

    size: int = 0
    same: list[tuple[Labels, Labels]] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    frozen: list[tuple[Labels, str]] = field(default_factory=list)
    _cuts: dict[bytes, Axis] = field(default_factory=dict)

    def fresh(self, size: int) -> Axis:
        """An axis of which nothing is known."""
        return () if size == 1 else (self._new(size),)

    def fixed(self, size: int, reason: str) -> Axis:
        """An axis of which no position may go."""
        axis = self.fresh(size)
        self.freeze(axis, reason)
        return axis

    def freeze(self, axis: Axis, reason: str) -> None:
        """No position of the axis may go."""
        self.frozen += [(factor, reason) for factor in axis]

    def unite(self, one: Axis, other: Axis) -> None:
        """Position by position, two axes of one size are one."""
        one, other = self._refined(one), self._refined(other)
        sizes = _common([len(factor) for factor in one], [len(factor) for factor in other])
        if sizes is None:
            pairs = [(self.flat(one), self.flat(other))]
        else:
            pairs = list(zip(self._cut(one, sizes), self._cut(other, sizes), strict=True))
        self.same += [(a, b) for a, b in pairs if a is not b]

    def flat(self, axis: Axis) -> Labels:
        """A label for each position of a product."""
        if not axis:
            (alone,) = self._new(1)[None]
            self.freeze((alone,), "it is the only one")
            return alone
        whole, *rest = axis
        for inner in rest:
            outer, whole = whole, self._new(len(whole) * len(inner))
            self.products.append(Product(whole, outer, inner))
        return whole

    def chosen(self, axis: Axis, positions: Sequence[int] | range, reason: str) -> Axis:
        """Some positions of an axis; one alone must stay, for the reason given."""
        if not axis or (len(positions) == prod(map(len, axis)) and _is_in_order(positions)):
            return axis
        inner = prod(len(factor) for factor in axis[1:])
        if inner > 1 and _is_run(positions, inner):
            outer = axis[0][[i // inner for i in positions[::inner]]]
            axis = (outer, *axis[1:]) if len(outer) > 1 else self._alone(outer, reason) + axis[1:]
            return axis
        found = self.flat(axis)[list(positions)]
        return (found,) if len(found) > 1 else self._alone(found, reason)

    def regrouped(self, axes: Iterable[Axis], shape: Sequence[int]) -> list[Axis] | None:
        """The axes after a reshape; None if a factor would have to be cut unevenly."""
        left = [factor for axis in axes for factor in self._refined(axis)]
        found: list[Axis] = []
        for size in shape:
            axis: list[Labels] = []
            while size > 1:
                factor = left.pop(0)
                if size % len(factor) == 0:
                    axis.append(factor)
                    size //= len(factor)
                elif len(factor) % size == 0:
                    left[:0] = self._cut((factor,), [size, len(factor) // size])
                else:
                    return None
            found.append(tuple(axis))
        return found

    def _new(self, size: int) -> Labels:
        self.size += size
        return np.arange(self.size - size, self.size)

    def _alone(self, labels: Labels, reason: str) -> Axis:
        self.freeze((labels,), reason)
        return ()

    def _refined(self, axis: Axis) -> Axis:
        """The axis in the factors that its factors were cut into."""
        found: list[Labels] = []
        for factor in axis:
            parts = self._cuts.get(factor.tobytes())
            found += (factor,) if parts is None else self._refined(parts)
        return tuple(found)

    def _cut(self, axis: Axis, sizes: Sequence[int]) -> list[Labels]:
        """The factors, some of them cut, so that they have these sizes."""
        found, left = [], list(axis)
        for size in sizes:
            factor = left.pop(0)
            if len(factor) > size:
                outer, inner = self._new(size), self._new(len(factor) // size)
                self.products.append(Product(factor, outer, inner))
                self._cuts[factor.tobytes()] = (outer, inner)
                factor, left = outer, [inner, *left]
            found.append(factor)
        return found


def _common(one: Sequence[int], other: Sequence[int]) -> list[int] | None:
    """The coarsest factors into which both lists can be cut; None if there are none."""
    ends = sorted({prod(sizes[: i + 1]) for sizes in (one, other) for i in range(len(sizes))})
    ends = [1, *ends]
    if any(b % a for a, b in pairwise(ends)):
        return None
    return [b // a for a, b in pairwise(ends)]


def _is_in_order(positions: Sequence[int] | range) -> bool:
    return all(i == at for i, at in enumerate(positions))


def _is_run(positions: Sequence[int] | range, inner: int) -> bool:
    """Whether the positions are whole turns of the inner factors, in order."""
    if len(positions) % inner:
        return False
    starts = positions[::inner]
    runs = [start + j for start in starts for j in range(inner)]
    return all(start % inner == 0 for start in starts) and list(positions) == runs
