"""A format: the grid of values, which entries share a scale, and how the scale is stored."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax.numpy as jnp

from wlab.quantization.codebooks import Codebook
from wlab.quantization.floats import Floats
from wlab.quantization.grids import Integers
from wlab.quantization.packing import ORDERS
from wlab.quantization.scales import E4M3, E8M0, SCALE_DTYPES

Grid: TypeAlias = Integers | Floats | Codebook
CODINGS = ("stored", "exact")


@dataclass(frozen=True)
class Format:
    """How an array is written in few bits. A plain value: hashable, comparable, printable.

    Scales are rounded to their dtype and to 16 significant bits. A code times such a scale is
    exact in float32 on every grid but a `Codebook`, so grid points quantize to themselves and no
    compiler can fuse the product into something else. Scales below the smallest normal number of
    their dtype (a block of zeros among them) are raised to it, larger than the largest lowered
    to it. A NaN or an infinity in a block makes the whole block NaN: nothing is hidden.

    Attributes:
        grid: The values a code stands for, given a scale: `Integers`, `Floats`, `Codebook`.
        axis: The axis, or axes, that a scale spans: for a kernel the contraction axis, -2 of
            (in, out), so that each output has scales of its own. None: one scale for the array.
            A vector has one axis, which is then the one meant.
        group_size: Consecutive entries along `axis` with a common scale; the last group may
            be shorter. None: the whole axis. With several axes a size for each: blocks, as
            axis=(-2, -1), group_size=(128, 128).
        scale_dtype: "float32", "float16", "bfloat16", or of 8 bits, stored as bytes:
            "float8_e4m3fn", or "float8_e8m0fnu", powers of two by OCP's rule
            2^(floor(log2 amax) − floor(log2 end of the grid)).
        coding: Which scale codes are the nearest by: as "stored", or the "exact" one before
            it was rounded, as ggml does; then float16 scales may be subnormal, to 2^-24.
        order: Which code comes first in a byte: "low_first" bits, or "high_first".
        outer: Scales are relative to one float32 for the array, amax / (448 · grid's end), so
            that 8-bit ones suffice. What is not finite then makes the whole array NaN.
    """

    grid: Grid
    axis: int | tuple[int, ...] | None = -2
    group_size: int | tuple[int, ...] | None = None
    scale_dtype: str = "float32"
    coding: str = "stored"
    order: str = "low_first"
    outer: bool = False

    def __post_init__(self) -> None:
        check_span(self.axis, self.group_size)
        for name, value, known in (
            ("scale_dtype", self.scale_dtype, SCALE_DTYPES),
            ("coding", self.coding, CODINGS),
            ("order", self.order, ORDERS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be in {known}, got {value!r}.")
        bytewise = self.scale_dtype in (E4M3, E8M0)
        if bytewise and (self.grid.reach != "even" or self.coding == "exact"):
            raise ValueError(f"{self.scale_dtype} scales take a symmetric grid, and no exact one.")
        if self.outer and self.scale_dtype != E4M3:
            raise ValueError(f"An outer scale goes with {E4M3} scales, got {self.scale_dtype}.")
        if not self.grid.scaled and (self.axis is not None or self.group_size is not None):
            raise ValueError(f"{self.grid} has no scales; give axis=None and no group_size.")

    def axes(self, ndim: int) -> tuple[int, ...]:
        """The axes that a scale spans in an array of this rank, counted from the front.

        Raises:
            ValueError: If the array is a scalar, or has no such axis.
        """
        if ndim == 0:
            raise ValueError("a scalar cannot be quantized; leave it out by a rule")
        if self.axis is None or ndim == 1:
            return tuple(range(ndim))
        named = (self.axis,) if isinstance(self.axis, int) else self.axis
        if not all(-ndim <= axis < ndim for axis in named):
            raise ValueError(f"axis {self.axis} is out of range for rank {ndim}")
        if len({axis % ndim for axis in named}) < len(named):
            raise ValueError(f"axis {self.axis} names one axis of rank {ndim} twice")
        return tuple(sorted(axis % ndim for axis in named))

    def groups(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Each grouped axis of an array of this shape, from the front, with its group size.

        A group is no larger than its axis.

        Raises:
            ValueError: As `axes`, and if a vector is to have blocks of several axes.
        """
        axes = self.axes(len(shape))
        if self.group_size is None:
            return ()
        if isinstance(self.group_size, int):
            sizes = {axes[0]: self.group_size}
        elif isinstance(self.axis, tuple) and len(axes) == len(self.axis):
            named = [axis % len(shape) for axis in self.axis]
            sizes = dict(zip(named, self.group_size, strict=True))
        else:
            raise ValueError(f"an array of rank {len(shape)} has no blocks of axes {self.axis}")
        return tuple((axis, max(1, min(sizes[axis], shape[axis]))) for axis in axes)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of an array: its rank, spanned axes cut to the group count."""
        spanned, sizes = self.axes(len(shape)), dict(self.groups(shape))
        return tuple(
            n if i not in spanned else math.ceil(n / sizes[i]) if i in sizes else 1
            for i, n in enumerate(shape)
        )

    def __str__(self) -> str:
        if not self.grid.scaled:
            return str(self.grid)
        span = "tensor" if self.axis is None else f"axis {self.axis}"
        span = span if self.group_size is None else f"group {self.group_size}"
        named = [n for n in (self.coding, self.order) if n not in ("stored", "low_first")]
        named += ["outer"] * self.outer
        return " ".join([str(self.grid), span, self.scale_dtype, *named])


def integer(
    bits: int,
    *,
    symmetric: bool = True,
    bound: str = "qmax",
    rounding: str = "half_even",
    axis: int | tuple[int, ...] | None = -2,
    group_size: int | tuple[int, ...] | None = None,
    scale_dtype: str = "float32",
) -> Format:
    """Integers of `bits` bits: one scale for each output of a kernel, unless told otherwise.

    Raises:
        ValueError: If `bits` is not 2 to 8 or another field does not hold (`Integers`, `Format`).
    """
    return Format(Integers(bits, symmetric, bound, rounding), axis, group_size, scale_dtype)


int8 = partial(integer, 8)
int6 = partial(integer, 6)
int5 = partial(integer, 5)
int4 = partial(integer, 4)
int3 = partial(integer, 3)
int2 = partial(integer, 2)


def check_leaf(leaf: Any, format: Format, name: str = "array") -> None:
    """Raises unless a leaf (an array or a shape) can be written in a format.

    Raises:
        TypeError: If it is not real floating point, as codes already written are not, or the
            format is none.
        ValueError: If it lacks the format's axis.
    """
    refuse_no_format(format, name)
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} is {dtype}, not floating point: give it the rule value None, "
            "or dequantize it first if it holds codes."
        )
    try:
        groups = format.groups(jnp.shape(leaf))
    except ValueError as error:
        raise ValueError(f"{name} cannot be {format}: {error}.") from None
    for axis, size in groups:
        n = jnp.shape(leaf)[axis]
        if n % size and not format.grid.keeps_zero:
            raise ValueError(
                f"{name} cannot be {format}: {n} entries leave a short last group, which a grid "
                f"without a zero cannot fill up; choose a group_size that divides {n}."
            )


def refuse_no_format(format: Any, name: str) -> None:
    """Refuses the name of a format, or the function that makes one.

    Raises:
        TypeError: Naming the leaf.
    """
    if not isinstance(format, Format):
        raise TypeError(
            f"{name}: {format!r} is not a Format, as quantization.int8() or "
            "quantization.int4(group_size=128) are."
        )


def check_span(axis: Any, group_size: Any) -> None:
    """Raises unless an axis and a group size name a granularity.

    Raises:
        TypeError: If they are not integers, a tuple of them for the axis, or None.
        ValueError: If an axis occurs twice, or groups are empty or run along several axes.
    """
    named = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    if not all(type(each) is int for each in named):
        raise TypeError(
            f"axis must be an int (a scale for each of the others), a tuple of ints, or None "
            f"(one scale for the array), got {axis!r}."
        )
    if len(set(named)) < len(named):
        raise ValueError(f"axis names one axis twice: {axis}.")
    if group_size is None:
        return
    sizes = group_size if isinstance(group_size, tuple) else (group_size,)
    if not all(type(size) is int for size in sizes):
        raise TypeError(f"group_size must be an int, a tuple of ints or None, got {group_size!r}.")
    if not all(size >= 1 for size in sizes):
        raise ValueError(f"group_size must be at least 1, got {group_size}.")
    if isinstance(group_size, tuple) != isinstance(axis, tuple) or len(sizes) != len(named):
        raise ValueError(
            f"Groups run along one axis, and blocks have a size for each of theirs; got "
            f"axis={axis}, group_size={group_size}."
        )
