"""The steps between a file's arrays and a tree's leaves, each with its exact inverse.

A step takes and gives a list of arrays, so that one array can become several (a fused q, k, v) and
several one (stacked layers). Steps only move elements: there and back again is bit-identical. They
work on NumPy arrays, on JAX arrays, and under `jax.eval_shape`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeAlias, runtime_checkable

Arrays: TypeAlias = list[Any]


@runtime_checkable
class Op(Protocol):
    """A reversible step."""

    def forward(self, arrays: Arrays) -> Arrays:
        """From the file to the tree."""
        ...

    def inverse(self, arrays: Arrays) -> Arrays:
        """From the tree to the file."""
        ...


@dataclass(frozen=True)
class Transpose:
    """Permutes the axes of each array; without axes, reverses them."""

    axes: tuple[int, ...] = ()

    def forward(self, arrays: Arrays) -> Arrays:
        """`y = x.transpose(axes)`."""
        return [x.transpose(self.axes or None) for x in arrays]

    def inverse(self, arrays: Arrays) -> Arrays:
        """`x = y.transpose(inverse axes)`."""
        back = tuple(self.axes.index(i) for i in range(len(self.axes)))
        return [y.transpose(back or None) for y in arrays]


@dataclass(frozen=True)
class Reshape:
    """Gives each array another shape, row by row.

    Attributes:
        theirs: The shape in the file.
        ours: The shape in the tree.
    """

    theirs: tuple[int, ...]
    ours: tuple[int, ...]

    def forward(self, arrays: Arrays) -> Arrays:
        """From `theirs` to `ours`."""
        return [_reshaped(x, self.theirs, self.ours) for x in arrays]

    def inverse(self, arrays: Arrays) -> Arrays:
        """From `ours` to `theirs`."""
        return [_reshaped(y, self.ours, self.theirs) for y in arrays]


@dataclass(frozen=True)
class Split:
    """Cuts one array into several along an axis, as a fused q, k, v.

    Attributes:
        sizes: The length of each part.
        axis: The axis that is cut.
    """

    sizes: tuple[int, ...]
    axis: int = 0

    def forward(self, arrays: Arrays) -> Arrays:
        """One array to its parts."""
        (x,) = arrays
        if x.shape[self.axis] != sum(self.sizes):
            raise ValueError(f"axis {self.axis} of {x.shape} is not {sum(self.sizes)} long")
        ends = list(accumulate(self.sizes))
        lead = (slice(None),) * (self.axis % x.ndim)
        return [x[(*lead, slice(e - n, e))] for n, e in zip(self.sizes, ends, strict=True)]

    def inverse(self, arrays: Arrays) -> Arrays:
        """The parts to one array."""
        return [arrays[0].__array_namespace__().concat(arrays, axis=self.axis)]


@dataclass(frozen=True)
class Concatenate:
    """Joins several arrays to one along an axis: the inverse of `Split`."""

    sizes: tuple[int, ...]
    axis: int = 0

    def forward(self, arrays: Arrays) -> Arrays:
        """The parts to one array."""
        return Split(self.sizes, self.axis).inverse(arrays)

    def inverse(self, arrays: Arrays) -> Arrays:
        """One array to its parts."""
        return Split(self.sizes, self.axis).forward(arrays)


@dataclass(frozen=True)
class Stack:
    """Puts arrays of one shape, as the layers of a scan, on top of each other."""

    axis: int = 0

    def forward(self, arrays: Arrays) -> Arrays:
        """Many arrays to one with a new axis."""
        return [arrays[0].__array_namespace__().stack(arrays, axis=self.axis)]

    def inverse(self, arrays: Arrays) -> Arrays:
        """One array to its slices."""
        (y,) = arrays
        lead = (slice(None),) * (self.axis % y.ndim)
        return [y[(*lead, i)] for i in range(y.shape[self.axis])]


@dataclass(frozen=True)
class Unstack:
    """Takes one array of stacked layers apart: the inverse of `Stack`."""

    axis: int = 0

    def forward(self, arrays: Arrays) -> Arrays:
        """One array to its slices."""
        return Stack(self.axis).inverse(arrays)

    def inverse(self, arrays: Arrays) -> Arrays:
        """Many arrays to one."""
        return Stack(self.axis).forward(arrays)


@dataclass(frozen=True)
class Halves:
    """Reorders the rows of each head from interleaved rotary pairs to halves.

    A head's rows 0, 1, 2, 3, … are the pairs (0, 1), (2, 3), … in the file; in the tree the first
    members of all pairs come first, then the second ones.

    Reference:
        Su et al. 2021 (arXiv:2104.09864), eq. 15: interleaved; GPT-NeoX and the transformers
        package rotate halves.
    """

    heads: int

    def forward(self, arrays: Arrays) -> Arrays:
        """Interleaved to halves."""
        return [self._swapped(x, (-1, 2)) for x in arrays]

    def inverse(self, arrays: Arrays) -> Arrays:
        """Halves to interleaved."""
        return [self._swapped(y, (2, -1)) for y in arrays]

    def _swapped(self, x: Any, pairs: tuple[int, int]) -> Any:
        return x.reshape(self.heads, *pairs, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def forward(ops: Sequence[Op], arrays: Arrays) -> Arrays:
    """Takes the steps in order: from the file to the tree."""
    for op in ops:
        arrays = op.forward(arrays)
    return arrays


def inverse(ops: Sequence[Op], arrays: Arrays) -> Arrays:
    """Takes the steps back, the last one first: from the tree to the file."""
    for op in reversed(ops):
        arrays = op.inverse(arrays)
    return arrays


def _reshaped(x: Any, found: tuple[int, ...], wanted: tuple[int, ...]) -> Any:
    if x.shape != found:
        raise ValueError(f"shape {x.shape} is not {found}")
    return x.reshape(wanted)
