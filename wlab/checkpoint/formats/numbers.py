"""What every format checks: that a dtype is one of numbers, that a shape can be a shape."""

from math import prod
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np

NUMBERS = frozenset(
    [
        "bool",
        "int4",
        "uint4",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e4m3b11fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    ]
)
_MAX_AXES = 32
_MAX_SIZE = 2**62


def checked_dtype(name: Any) -> np.dtype:
    """The dtype of that name.

    Raises:
        ValueError: If it is not the name of a dtype of numbers.
    """
    if not isinstance(name, str) or name not in NUMBERS:
        shown = repr(name[:40]) if isinstance(name, str) else type(name).__name__
        raise ValueError(f"its dtype is {shown}, which is not one of numbers that can be read")
    return np.dtype(name)


def checked_shape(sizes: Any) -> tuple[int, ...]:
    """The sizes as a shape.

    Raises:
        ValueError: If one is not a whole number from 0, or they are too many or too big.
    """
    shape = tuple(sizes) if isinstance(sizes, list | tuple) else (sizes,)
    if len(shape) > _MAX_AXES:
        raise ValueError(f"it has {len(shape):,} axes; at most {_MAX_AXES} are read")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("its shape holds something else than whole numbers from 0")
    if prod(max(size, 1) for size in shape) > _MAX_SIZE:
        raise ValueError("its shape has more than 2**62 elements")
    return shape
