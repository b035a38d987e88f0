"""A format: the grid of values, which entries share a scale, and how the scale is stored."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab.quantization.grids import Blocks, Fit, Integers

_SCALE_DTYPES = ("float32", "float16", "bfloat16")
_SIGNIFICAND = 15  # stored bits of a scale's significand, at most


@dataclass(frozen=True)
class Format:
    """How an array is written in few bits. A plain value: hashable, comparable, printable.

    Scales are rounded to their dtype and to 16 significant bits. A code times such a scale is
    exact in float32, so grid points quantize to themselves and no compiler can fuse the
    product into something else. Scales below the smallest normal number of their dtype
    (a block of zeros among them) are raised to it, larger than the largest lowered to it.
    A NaN or an infinity in a block makes the whole block NaN: nothing is hidden.

    Attributes:
        grid: The values a code stands for, given a scale.
        axis: The axis, or axes, that a scale spans: for a kernel the contraction axis, -2 of
            (in, out), so that each output has scales of its own. None: one scale for the array.
            A vector has one axis, which is then the one meant.
        group_size: Consecutive entries along `axis` with a common scale; the last group may
            be shorter. None: the whole axis.
        scale_dtype: "float32", "float16" or "bfloat16".
    """

    grid: Integers
    axis: int | tuple[int, ...] | None = -2
    group_size: int | None = None
    scale_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.group_size is not None:
            if self.group_size < 1:
                raise ValueError(f"group_size must be at least 1, got {self.group_size}.")
            if not isinstance(self.axis, int):
                raise ValueError(f"Groups run along one axis, got axis={self.axis}.")
        if self.scale_dtype not in _SCALE_DTYPES:
            raise ValueError(f"scale_dtype must be in {_SCALE_DTYPES}, got {self.scale_dtype!r}.")

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
        return tuple(sorted(axis % ndim for axis in named))

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of an array: its rank, spanned axes cut to the group count."""
        spanned = self.axes(len(shape))
        return tuple(self._groups(n) if i in spanned else n for i, n in enumerate(shape))

    def _groups(self, size: int) -> int:
        return 1 if self.group_size is None else math.ceil(size / self.group_size)

    def fit(self, low: Blocks, high: Blocks) -> Fit:
        """The grid for values in [low, high], low ≤ 0 ≤ high, its scale as it will be stored."""
        scale = self.grid.scale(low, high)
        info = jnp.finfo(self.scale_dtype)
        smallest = np.float32(info.tiny)
        largest = np.float32(min(float(info.max), 2.0**126))  # the reciprocal must be normal too
        rounded = jax.lax.reduce_precision(scale, info.nexp, min(info.nmant, _SIGNIFICAND))
        rounded = jnp.clip(rounded, smallest, largest)
        return self.grid.fit(low, jnp.where(jnp.isfinite(scale), rounded, jnp.nan))

    def __str__(self) -> str:
        span = "tensor" if self.axis is None else f"axis {self.axis}"
        span = span if self.group_size is None else f"group {self.group_size}"
        return f"{self.grid} {span} {self.scale_dtype}"


def integer(
    bits: int,
    *,
    symmetric: bool = True,
    bound: str = "qmax",
    axis: int | tuple[int, ...] | None = -2,
    group_size: int | None = None,
    scale_dtype: str = "float32",
) -> Format:
    """Integers of `bits` bits: one scale for each output of a kernel, unless told otherwise.

    Raises:
        ValueError: If `bits` is not 2 to 8 or another field does not hold (`Integers`, `Format`).
    """
    return Format(Integers(bits, symmetric, bound), axis, group_size, scale_dtype)


int8 = partial(integer, 8)
int4 = partial(integer, 4)
int2 = partial(integer, 2)


def check_leaf(leaf: Any, format: Format, name: str = "array") -> None:
    """Raises unless a leaf (an array or a shape) can be written in a format.

    Raises:
        TypeError: If it is not real floating point, as codes already written are not.
        ValueError: If it lacks the format's axis.
    """
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} is {dtype}, not floating point: give it the rule value None, "
            "or dequantize it first if it holds codes."
        )
    try:
        format.axes(jnp.ndim(leaf))
    except ValueError as error:
        raise ValueError(f"{name} cannot be {format}: {error}.") from None
