"""Quantized kernels as rows of signed codes, outputs by inputs, and back: as other tools have them.

Nothing is rounded again, and nothing is known here of files.
"""

from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (makes NumPy know float8 by name)
import numpy as np

from wlab.quantization.floats import Floats
from wlab.quantization.formats import Format
from wlab.quantization.grids import Integers
from wlab.quantization.packing import pack, unpack
from wlab.quantization.qtensor import QTensor, check

_E4M3 = Floats(4, 3, special="nan")
_FLOAT8 = "float8_e4m3fn"


class Rows(NamedTuple):
    """value = (code − zero point) · scale.

    Attributes:
        codes: int8 in two's complement, or float8_e4m3fn, of (outputs, inputs).
        scale: float32, float16 or bfloat16 of (outputs, groups); (1,) if there is but one.
        zero_point: int8, shaped as the scale; None if symmetric.
        bits: Bits of a code.
        group_size: Inputs with a common scale; None if all of an output's have it.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    bits: int
    group_size: int | None


def to_rows(q: QTensor, name: str = "QTensor", *, transposed: bool | None = None) -> Rows:
    """A kernel of (inputs, outputs) whose groups run along axis -2, or rows along axis -1.

    Args:
        q: The leaf.
        name: What to call it in errors.
        transposed: Whether it is (inputs, outputs), where one scale for all of it does not tell.

    Raises:
        ValueError: If it is no matrix, its grid or its scales have no place in such rows, or
            `transposed` is needed and not said.
    """
    check(q, name)
    format, grid = q.format, q.format.grid
    check_rows(format, q.shape, name)
    whole = isinstance(grid, Integers)
    turn = transposed if format.axis is None else format.axes(2) == (0,)
    if turn is None:
        raise ValueError(f"{name} has one scale: say by `transposed` whether inputs come first.")
    plain = np.asarray(unpack(jnp.asarray(q.codes), grid.bits, q.length, format.order))
    half = 2 ** (grid.bits - 1)
    codes = _signed(plain, half) if whole else plain.view(_FLOAT8)
    zero = None if q.zero_point is None else _signed(np.asarray(q.zero_point), half)
    scale = np.asarray(q.scale)
    if turn:
        codes, scale = codes.T.copy(), scale.T.copy()
        zero = None if zero is None else zero.T.copy()
    if format.axis is None:
        scale = scale.reshape(1)
        zero = None if zero is None else zero.reshape(1)
    size = format.group_size
    group = size if isinstance(size, int) and size < codes.shape[1] else None
    return Rows(codes, scale, zero, grid.bits, group)


def check_rows(format: Format, shape: tuple[int, ...], name: str) -> None:
    """Raises unless an array of this shape in a format can be rows of codes.

    Raises:
        ValueError: Naming the array, and what rows hold.
    """
    grid = format.grid
    whole = isinstance(grid, Integers) and grid.zero == "integer"
    if len(shape) != 2 or not (whole or grid == _E4M3) or not _is_spanned(format):
        raise ValueError(
            f"{name} of {list(shape)} is {format}; rows are of matrices, of integers with "
            "integer zero points or of fp8 e4m3, with scales of 16 or 32 bits along one axis."
        )


def from_rows(rows: Rows, *, dtype: str = "float32", transposed: bool = False) -> QTensor:
    """The inverse of `to_rows`: rows along axis -1, or a kernel along -2 if `transposed`.

    The bound of a symmetric grid says where ranges ended when codes were chosen, which rows do not
    tell: it comes back as "qmax", or as "full" if a code lies below.

    Args:
        rows: Codes, scales and zero points.
        dtype: Of the array that they stand for.
        transposed: Whether the kernel is to be (inputs, outputs).

    Raises:
        ValueError: If the parts do not belong together.
    """
    floats = rows.codes.dtype == _FLOAT8
    grid = _E4M3 if floats else Integers(rows.bits, rows.zero_point is None, _bound(rows))
    single = rows.scale.ndim == 1
    axis = None if single else -2 if transposed else -1
    format = Format(grid, axis, rows.group_size, rows.scale.dtype.name)
    half = np.uint8(2 ** (rows.bits - 1))
    parts = [rows.codes.view(np.uint8), rows.scale, rows.zero_point]
    if not floats:
        parts[0] = (rows.codes.astype(np.int16) + half).astype(np.uint8)
    if rows.zero_point is not None:
        parts[2] = (rows.zero_point.astype(np.int16) + half).astype(np.uint8)
    parts = [x if x is None or x.ndim == 2 else x.reshape(1, 1) for x in parts]
    if transposed:
        parts = [None if x is None else x.T for x in parts]
    codes, scale, zero = (None if x is None else jnp.asarray(x) for x in parts)
    packed = pack(jnp.asarray(codes), rows.bits, format.order)
    q = QTensor(packed, scale, zero, format, rows.codes.shape[0 if transposed else 1], dtype)
    check(q, "from_rows")
    return q


def _bound(rows: Rows) -> str:
    """Symmetric codes that reach the lowest are of a grid that has it."""
    lowest = -(2 ** (rows.bits - 1))
    reaches = rows.zero_point is None and (rows.codes.view(np.int8) == lowest).any()
    return "full" if reaches else "qmax"


def _signed(codes: np.ndarray, half: int) -> np.ndarray:
    return (codes.astype(np.int16) - half).astype(np.int8)


def _is_spanned(format: Format) -> bool:
    """Whether scales span one axis, or all, and have a width of their own."""
    one = format.axis is None or isinstance(format.axis, int)
    return one and not format.outer and format.scale_dtype in ("float32", "float16", "bfloat16")
