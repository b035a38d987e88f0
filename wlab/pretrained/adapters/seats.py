"""Where the axes of a leaf stand in the matrices of the file it comes from.

A name map only moves elements. So each element of a leaf has a first and a second index in one of
the file's kernels (a convolution's window counts with the second), and an adapter of that kernel
is one of the leaf as well, if either index is told by axes of its own. That is found out by
sending the indices themselves through the map.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from wlab.pretrained.name_map import Move
from wlab.pretrained.ops import forward, inverse

Axes = tuple[int, ...]


class Index(NamedTuple):
    """One index of the file's kernels, told by some axes of a leaf.

    Attributes:
        axes: These axes.
        at: The index for each position along them.
    """

    axes: Axes
    at: np.ndarray


class Seat(NamedTuple):
    """A leaf's place among the kernels of its move.

    Attributes:
        kernel: Which of the move's arrays; without axes if the leaf comes from one of them.
        first: The first index in that array, its row.
        second: All other indices in one, its column.
    """

    kernel: Index
    first: Index
    second: Index


def shapes_in_file(move: Move, shapes: Sequence[Axes]) -> list[Axes]:
    """The shapes of the move's arrays, from those of its leaves."""

    def abstract() -> Any:
        return inverse(move.ops, [jax.numpy.zeros(shape, bool) for shape in shapes])

    return [found.shape for found in jax.eval_shape(abstract)]


def seats(move: Move, shapes: Sequence[Axes]) -> list[Seat]:
    """The place of each leaf of a move, given the leaves' shapes.

    Raises:
        ValueError: If an array has no rows and columns, or a leaf mixes them.
    """
    sizes = shapes_in_file(move, shapes)
    for name, size in zip(move.theirs, sizes, strict=True):
        if len(size) < 2:
            raise ValueError(f"array {name!r} of shape {list(size)} is no kernel")
    found = [
        _sent(move, [number(k, size) for k, size in enumerate(sizes)])
        for number in (_kernel, _row, _column)
    ]
    return [_seat(path, *numbers) for path, *numbers in zip(move.ours, *found, strict=True)]


def _kernel(k: int, shape: Axes) -> np.ndarray:
    return np.broadcast_to(np.int32(k), shape)


def _row(k: int, shape: Axes) -> np.ndarray:
    del k
    rows = np.arange(shape[0], dtype=np.int32)
    return np.broadcast_to(rows.reshape(-1, *(1 for _ in shape[1:])), shape)


def _column(k: int, shape: Axes) -> np.ndarray:
    del k
    return np.broadcast_to(np.arange(np.prod(shape[1:]), dtype=np.int32).reshape(shape[1:]), shape)


def _sent(move: Move, numbers: list[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(x) for x in forward(move.ops, numbers)]


def _seat(path: str, kernel: np.ndarray, row: np.ndarray, column: np.ndarray) -> Seat:
    seat = Seat(*(_told_by_axes(path, x) for x in (kernel, row, column)))
    every = [axis for index in seat for axis in index.axes]
    if len(set(every)) < len(every):
        raise ValueError(f"leaf {path!r} has rows and columns of the file's kernels on one axis")
    return seat


def _told_by_axes(path: str, numbers: np.ndarray) -> Index:
    along: Callable[[int], np.ndarray] = lambda axis: numbers[  # noqa: E731
        tuple(slice(None) if i == axis else 0 for i in range(numbers.ndim))
    ]
    axes = tuple(axis for axis in range(numbers.ndim) if np.any(along(axis) != along(axis)[0]))
    cut = tuple(slice(None) if i in axes else slice(1) for i in range(numbers.ndim))
    if not np.array_equal(numbers, np.broadcast_to(numbers[cut], numbers.shape)):
        raise ValueError(f"leaf {path!r} mixes rows and columns of the file's kernels")
    others = tuple(i for i in range(numbers.ndim) if i not in axes)
    return Index(axes, numbers[cut].squeeze(others))
