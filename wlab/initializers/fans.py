"""Which axes of a kernel are inputs, outputs, stacked layers and receptive field.

A shape alone does not say: (512, 8, 64) is a convolution over 512 positions or a projection
of 512 inputs to 8 heads of 64. So the axes are declared, and what is left is receptive field.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypedDict, Unpack

import numpy as np
from jaxtyping import Array, Float

AxisSpec: TypeAlias = int | Sequence[int]


class Axes(TypedDict, total=False):
    """The declared axes of a kernel, each one axis or several; negative ones count from the end.

    Attributes:
        in_axis: Input features; -2 unless declared.
        out_axis: Output features; -1 unless declared.
        batch_axis: Independent layers stacked in one array; none unless declared.
    """

    in_axis: AxisSpec
    out_axis: AxisSpec
    batch_axis: AxisSpec


class Fans(NamedTuple):
    """How many inputs feed one output, and how many outputs one input feeds."""

    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class Layout:
    """A kernel's shape with its axes by role, counted from the front."""

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    receptive: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths of these axes."""
        return tuple(self.shape[axis] for axis in axes)

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """The kernel as stacked matrices: (batch, receptive · in, out)."""
        rows = self.receptive + self.inputs
        batch, rows, columns = map(self.sizes, (self.batch, rows, self.outputs))
        return math.prod(batch), math.prod(rows), math.prod(columns)


def fans(shape: Sequence[int], **axes: Unpack[Axes]) -> Fans:
    """Counts the fans of a kernel: `(in · receptive field, out · receptive field)`.

    Example:
        `fans((512, 8, 64), in_axis=0, out_axis=(1, 2))` and
        `fans((12, 512, 512), batch_axis=0)` are both (512, 512).

    Raises:
        ValueError: If an axis is not there or is declared twice.
    """
    at = layout(shape, **axes)
    field, inputs, outputs = map(at.sizes, (at.receptive, at.inputs, at.outputs))
    return Fans(math.prod(field + inputs), math.prod(field + outputs))


def layout(
    shape: Sequence[int],
    *,
    in_axis: AxisSpec = -2,
    out_axis: AxisSpec = -1,
    batch_axis: AxisSpec = (),
) -> Layout:
    """Gives every axis of a kernel its role.

    Raises:
        ValueError: As `fans`.
    """
    shape = tuple(shape)
    declared = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis}
    inputs, outputs, batch = (_from_front(shape, name, axes) for name, axes in declared.items())
    named = (*batch, *inputs, *outputs)
    if len(set(named)) < len(named):
        raise ValueError(
            f"Shape {shape}: an axis is declared twice in {declared}. "
            "Declare in_axis and out_axis (-2 and -1 unless declared) as different axes."
        )
    receptive = tuple(axis for axis in range(len(shape)) if axis not in named)
    return Layout(shape, batch, receptive, inputs, outputs)


def from_matrix(matrix: Float[Array, "batch rows columns"], at: Layout) -> Float[Array, "..."]:
    """Folds stacked matrices, as `Layout.matrix_shape`, into the kernel's own axes."""
    order = (*at.batch, *at.receptive, *at.inputs, *at.outputs)
    return matrix.reshape(at.sizes(order)).transpose(tuple(map(int, np.argsort(order))))


def _from_front(shape: tuple[int, ...], name: str, axes: AxisSpec) -> tuple[int, ...]:
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in axes:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"Shape {shape} has no axis {axis} ({name}). Fans need an input and an output "
                "axis: declare them, or give vectors zeros, ones, constant or normal."
            )
    return tuple(axis % len(shape) for axis in axes)
