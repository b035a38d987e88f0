"""The axes of a value that is made of a leaf's entries: products of factors of the leaf's axes.

A value of shape (12, 8) that came from a leaf of shape (2, 8, 6) has, as its first axis, the
product of the leaf's first axis and its last. Reshaping multiplies factors and cuts them, and
nothing else; what can't be cut evenly has no description, and None says so.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple


class Atom(NamedTuple):
    """A factor of one axis of a leaf.

    Attributes:
        axis: The leaf's axis; None where entries are repeated.
        size: How many positions.
        stride: Their distance on the leaf's axis, negative if they are read backwards.
    """

    axis: int | None
    size: int
    stride: int = 1


Axis = tuple[Atom, ...]  # the product of its atoms, of which the last varies fastest


def length(axis: Axis) -> int:
    """The number of positions."""
    return prod(atom.size for atom in axis)


def whole(shape: Sequence[int]) -> tuple[Axis, ...]:
    """The axes of a leaf itself."""
    return tuple((Atom(i, size),) for i, size in enumerate(shape))


def repeated(size: int) -> Axis:
    """An axis along which nothing changes."""
    return (Atom(None, size),) if size > 1 else ()


def regrouped(axes: Iterable[Axis], shape: Sequence[int]) -> tuple[Axis, ...] | None:
    """The axes after a reshape; None if a factor would have to be cut unevenly.

    Factors of size 1 go where an axis of size 1 is, or to the next factor.
    """
    left = list(_merged(atom for axis in axes for atom in axis))
    found: list[Axis] = []
    for size in shape:
        axis: list[Atom] = []
        if size == 1 and left and left[0].size == 1:
            axis.append(left.pop(0))
        while length(tuple(axis)) < size:
            taken = _cut(left.pop(0), size // length(tuple(axis))) if left else None
            if taken is None:
                return None
            axis.append(taken[0])
            left[:0] = taken[1:]
        if length(tuple(axis)) != size:
            return None
        found.append(tuple(axis))
    if left and found:  # of size 1, all of them
        found[-1] += tuple(left)
    return tuple(_merged(axis) for axis in found)


def _cut(atom: Atom, size: int) -> list[Atom] | None:
    """The atom, or its slow part of `size` positions and the rest."""
    if size % atom.size == 0:
        return [atom]
    if atom.size % size:
        return None
    inner = atom.size // size
    return [
        Atom(atom.axis, size, atom.stride * inner),
        Atom(atom.axis, inner, atom.stride),
    ]


def _merged(atoms: Iterable[Atom]) -> Axis:
    """The atoms, where neighbours that are cut from one are one again."""
    found: list[Atom] = []
    for atom in atoms:
        last = found[-1] if found else None
        if last is None or not _continues(last, atom):
            found.append(atom)
        elif last.size == 1 or atom.size == 1:
            found[-1] = last if atom.size == 1 else atom
        else:
            found[-1] = Atom(atom.axis, last.size * atom.size, atom.stride)
    return tuple(found)


def _continues(outer: Atom, inner: Atom) -> bool:
    if outer.axis != inner.axis:
        return False
    one = outer.axis is None or 1 in (outer.size, inner.size)
    return one or outer.stride == inner.stride * inner.size
