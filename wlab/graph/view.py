"""What a value inside a function is to the leaf whose entries it holds: a view.

A view follows transposing, reshaping, slicing, reversing and broadcasting. Whatever it can't
describe becomes None, and whoever asked calls the use opaque: never a wrong description.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from wlab.graph.axes import Atom, Axis, length, regrouped, repeated, whole


class Cut(NamedTuple):
    """An axis of a leaf of which each device has its own part, as `shard_map` gives it.

    Attributes:
        axis: The leaf's.
        names: Of the mesh's axes along which the parts lie.
        parts: How many, of one size.
    """

    axis: int
    names: tuple[str, ...]
    parts: int


@dataclass(frozen=True)
class View:
    """Entries of one leaf, in another arrangement.

    The entry at position i of an axis lies at offset + Σ position · stride on the leaf's axes,
    over the axis's atoms.

    Attributes:
        path: The leaf's.
        shape: The leaf's.
        axes: Of the value, each a product of factors of the leaf's.
        offsets: The first position on each axis of the leaf; where that is cut, of a part.
        stack: Axes of the leaf over which a loop runs, the outermost first.
        loops: For each loop around the value, the outermost first, whether it runs over an axis
            of the leaf, and does not meet the same entries again at every turn.
        steps: The operations that led here, by name.
        exact: Whether the entries are the leaf's; otherwise they were computed from them, one
            from one, and from other parameters or constants.
        cuts: Of the leaf's axes, over devices; `axes` are those of one device.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    offsets: tuple[int, ...]
    stack: tuple[int, ...] = ()
    loops: tuple[bool, ...] = ()
    steps: tuple[str, ...] = ()
    exact: bool = True
    cuts: tuple[Cut, ...] = ()

    @property
    def part(self) -> tuple[int, ...]:
        """The shape of the leaf's part on one device: `shape`, where nothing is cut."""
        return tuple(n // self.parts_of([i]) for i, n in enumerate(self.shape))

    def parts_of(self, axes: Collection[int]) -> int:
        """How many parts of some axes of the leaf lie on devices of their own."""
        return prod(cut.parts for cut in self.cuts if cut.axis in axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(length(axis) for axis in self.axes)

    @property
    def index(self) -> tuple[tuple[int, int], ...]:
        """Axes of the leaf of which the value holds one position only, and that position."""
        spread = {atom.axis for axis in self.axes for atom in axis if atom.size > 1}
        known = {*spread, *self.stack, *(cut.axis for cut in self.cuts if cut.parts > 1)}
        fixed = (i for i, n in enumerate(self.shape) if n > 1 and i not in known)
        return tuple((i, self.offsets[i]) for i in fixed)

    @property
    def repeats(self) -> bool:
        """Whether an entry is there several times."""
        atoms = (atom for axis in self.axes for atom in axis)
        return any(atom.axis is None and atom.size > 1 for atom in atoms)

    @property
    def is_whole(self) -> bool:
        """Whether every entry of the leaf (of one turn of the loops) is there, exactly once.

        Of a leaf that is cut, on all devices together.
        """
        turns = prod(self.part[i] for i in self.stack)
        return not self.repeats and prod(self.sizes) * turns == prod(self.part)


def of_leaf(path: str, shape: Sequence[int]) -> View:
    """The leaf as it is."""
    return View(path, tuple(shape), whole(shape), (0,) * len(shape))


def transposed(view: View, permutation: Sequence[int]) -> View:
    """The axes in another order."""
    return replace(view, axes=tuple(view.axes[i] for i in permutation))


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """The same entries in the same order in other axes."""
    axes = regrouped(view.axes, shape)
    return None if axes is None else replace(view, axes=axes)


def squeezed(view: View, dimensions: Sequence[int]) -> View:
    """Without some axes of size 1."""
    kept = (axis for i, axis in enumerate(view.axes) if i not in dimensions)
    return replace(view, axes=tuple(kept))


def broadcasted(view: View, shape: Sequence[int], dimensions: Sequence[int]) -> View:
    """Repeated to a shape in which its own axes are `dimensions`."""
    axes = [repeated(size) for size in shape]
    for axis, i in zip(view.axes, dimensions, strict=True):
        if length(axis) == shape[i]:
            axes[i] = axis
    return replace(view, axes=tuple(axes))


def flipped(view: View, dimensions: Sequence[int]) -> View:
    """Some axes read backwards."""
    offsets, axes = list(view.offsets), list(view.axes)
    for i in dimensions:
        for atom in axes[i]:
            if atom.axis is not None:
                offsets[atom.axis] += (atom.size - 1) * atom.stride
        axes[i] = tuple(atom._replace(stride=-atom.stride) for atom in axes[i])
    return replace(view, axes=tuple(axes), offsets=tuple(offsets))


def sliced(
    view: View, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int] | None = None
) -> View | None:
    """Every `stride`-th position from `start` up to `limit`, along each axis."""
    for i, (start, limit) in enumerate(zip(starts, limits, strict=True)):
        step = 1 if strides is None else strides[i]
        found = _sliced_along(view, i, start, len(range(start, limit, step)), step)
        if found is None:
            return None
        view = found
    return view


def one_turn(view: View) -> View | None:
    """What one turn of a loop over the first axis gets; None unless that is an axis of the leaf."""
    first, *rest = view.axes
    if len(first) != 1:
        return None
    axis, size, stride = first[0]
    if axis is None or size != view.part[axis] or stride != 1:
        return None
    return replace(view, axes=tuple(rest), stack=(*view.stack, axis), loops=(*view.loops, True))


def every_turn(view: View) -> View:
    """What each turn of a loop gets that has no part of the leaf for itself."""
    return replace(view, loops=(*view.loops, False))


def cut(view: View, dimension: int, names: tuple[str, ...], parts: int) -> View | None:
    """What each device gets of some; None unless its part is one of an axis of the leaf."""
    if not names:
        return view
    (axis, size, stride), *rest = view.axes[dimension] or (Atom(None, 1),)
    whole = axis is None or (size == view.part[axis] and stride == 1)
    if not whole or size % parts:
        return None
    axes = list(view.axes)
    axes[dimension] = (Atom(axis, size // parts), *rest)
    cuts = view.cuts if axis is None else (*view.cuts, Cut(axis, names, parts))
    return replace(view, axes=tuple(axes), cuts=cuts)


def joined(view: View, dimension: int, names: tuple[str, ...]) -> View | None:
    """What all devices have together: undoes a `cut`; None if they have something else."""
    (axis, size, stride), *rest = view.axes[dimension] or (Atom(None, 1),)
    last = next((i for i in reversed(range(len(view.cuts))) if view.cuts[i].axis == axis), None)
    if axis is None or last is None or view.cuts[last].names != names:
        return None
    if size != view.part[axis] or stride != 1:
        return None
    axes = list(view.axes)
    axes[dimension] = (Atom(axis, size * view.cuts[last].parts), *rest)
    return replace(view, axes=tuple(axes), cuts=(*view.cuts[:last], *view.cuts[last + 1 :]))


def _sliced_along(view: View, i: int, start: int, count: int, step: int) -> View | None:
    """The view with `count` positions of its axis i, `step` apart."""
    axis = view.axes[i]
    if count == length(axis):
        return view
    if count == 1:
        starts = _position(axis, start)
        kept: Axis = tuple(atom._replace(size=1) for atom in axis)
    elif axis:
        inner = length(axis[1:])
        if step * (len(axis) > 1) > 1 or start % inner or count % inner:
            return None
        outer, steps = axis[0], step if len(axis) == 1 else 1
        starts = (start // inner, *(0 for _ in axis[1:]))
        kept = (Atom(outer.axis, count // inner, outer.stride * steps), *axis[1:])
    else:
        return None
    offsets = list(view.offsets)
    for atom, at in zip(axis, starts, strict=True):
        if atom.axis is not None:
            offsets[atom.axis] += at * atom.stride
    axes = (*view.axes[:i], kept, *view.axes[i + 1 :])
    return replace(view, axes=axes, offsets=tuple(offsets))


def _position(axis: Axis, at: int) -> tuple[int, ...]:
    """The position on each atom of a position on the axis."""
    found: list[int] = []
    for atom in reversed(axis):
        at, rest = divmod(at, atom.size)
        found.append(rest)
    return tuple(reversed(found))
