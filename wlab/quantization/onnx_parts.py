"""Quantized leaves as ONNX's DequantizeLinear takes them, and back.

Nothing is rounded again, and nothing is known here of files.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 by name)
import numpy as np

from wlab.quantization.formats import Format
from wlab.quantization.grids import Integers
from wlab.quantization.packing import pack, unpack
from wlab.quantization.qtensor import QTensor, check

_SCALES = ("float32", "float16", "bfloat16")
_pack = jax.jit(pack, static_argnums=1)
_unpack = jax.jit(unpack, static_argnums=(1, 2, 3))


class OnnxParts(NamedTuple):
    """value = (code − zero point) · scale, in the dtype of the scale.

    Attributes:
        codes: int8 or uint8 of the array's shape; codes of 4 bits are in bytes too.
        scale: float32, float16 or bfloat16: a scalar; of (size of the axis,); or of the codes'
            shape, but for the axis, where it has one for each block.
        zero_point: Of the codes' dtype and the scale's shape; None stands for zeros.
        bits: Bits that a file has for a code: 4 or 8.
        axis: Along which scales differ, or blocks run; None if there is one scale.
        block_size: Consecutive entries along the axis with a common scale; 0 if there are no
            blocks.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    bits: int
    axis: int | None
    block_size: int


def to_onnx_parts(q: QTensor, name: str = "QTensor") -> OnnxParts:
    """The codes of a leaf in two's complement if it is symmetric, else unsigned.

    Codes of up to 4 bits become such of 4, others of 8. The scale is of the leaf's dtype if it
    was, else float32: as float16 it would make a float32 leaf float16. So the value is that
    of `dequantize` bit for bit, before it is rounded to the leaf's dtype where that is narrower.

    Raises:
        ValueError: As `onnx_place`, or if the leaf is not what its format says.
    """
    check(q, name)
    format, grid = q.format, q.format.grid
    axis, block = onnx_place(format, q.shape, name)
    codes = np.asarray(_unpack(jnp.asarray(q.codes), grid.bits, q.length, format.order))
    zero = None if q.zero_point is None else np.asarray(q.zero_point)
    if zero is None:
        codes = (codes.astype(np.int16) - 2 ** (grid.bits - 1)).astype(np.int8)
    scale = np.asarray(q.scale)
    scale = scale if scale.dtype.name == q.dtype else scale.astype(np.float32)
    if not block:
        shape = () if axis is None else (-1,)
        scale = scale.reshape(shape)
        zero = None if zero is None else zero.reshape(shape)
    return OnnxParts(codes, scale, zero, 4 if grid.bits <= 4 else 8, axis, block)


def onnx_place(format: Format, shape: tuple[int, ...], name: str) -> tuple[int | None, int]:
    """The axis and the size of blocks, 0 if there are none, of an array in a format.

    Raises:
        ValueError: If the grid is not of integers with integer zero points, scales have 8 bits,
            or blocks run along several axes, naming the array.
    """
    grid = format.grid
    whole = isinstance(grid, Integers) and grid.zero == "integer"
    if not whole or format.outer or format.scale_dtype not in _SCALES:
        raise ValueError(
            f"{name} is {format}; DequantizeLinear takes integers with integer zero points, and "
            "scales of 16 or 32 bits: quantize it as int4 or int8."
        )
    spanned, groups = format.axes(len(shape)), format.groups(shape)
    free = [axis for axis in range(len(shape)) if axis not in spanned]
    if not groups and len(free) < 2:
        return (free[0] if free else None), 0
    if len(spanned) == 1:
        axis, size = groups[0] if groups else (spanned[0], shape[spanned[0]])
        return axis, max(1, size)
    raise ValueError(
        f"{name} of {list(shape)} is {format}; DequantizeLinear has blocks along one axis, or "
        "scales along one: choose one axis, or all but one."
    )


def from_onnx_parts(parts: OnnxParts, name: str = "leaf") -> QTensor:
    """The leaf whose `dequantize` is what DequantizeLinear gives, bit for bit.

    Signed codes without a zero point but zero are a symmetric grid; others have zero points. What
    a file does not tell comes back as it can be: the leaf's dtype is that of the scale, and the
    bound of a symmetric grid is "qmax", or "full" if a code lies below.

    Example:
        `from_onnx_parts(OnnxParts(*weight))`, of a `checkpoint.QuantizedInitializer`

    Raises:
        ValueError: If the parts do not belong together, or no format has such codes or scales,
            naming the leaf.
    """
    codes, scale, axis = parts.codes, parts.scale, _axis(parts, name)
    _refuse_apart(parts, axis, name)
    zero, half = parts.zero_point, 2 ** (parts.bits - 1)
    signed = codes.dtype == np.int8
    symmetric = signed and (zero is None or not zero.any())
    bound = "full" if symmetric and (codes == -half).any() else "qmax"
    grid = Integers(parts.bits, symmetric, bound)
    shift = half if signed else 0
    plain = codes.astype(np.int16) + shift
    if plain.size and not 0 <= plain.min() <= plain.max() < 2**parts.bits:
        raise ValueError(f"{name} has codes beyond {parts.bits} bits; the parts are damaged.")
    if symmetric:
        zero = None
    else:
        zero = np.zeros_like(scale, np.int16) if zero is None else zero.astype(np.int16)
        zero = (zero + shift).astype(np.uint8)
    format = _format(parts, axis, grid)
    shape = format.scale_shape(codes.shape)
    q = QTensor(
        _pack(jnp.asarray(plain.astype(np.uint8)), parts.bits),
        jnp.asarray(scale.reshape(shape)),
        None if zero is None else jnp.asarray(zero.reshape(shape)),
        format,
        codes.shape[-1],
        scale.dtype.name,
    )
    check(q, name)
    return q


def _axis(parts: OnnxParts, name: str) -> int | None:
    """The axis counted from the front; None if there is one scale."""
    ndim = parts.codes.ndim
    if ndim == 0:
        raise ValueError(f"{name} is a scalar, which is not quantized: write it as it is.")
    if not parts.block_size and parts.scale.size == 1 and parts.scale.ndim <= 1:
        return None
    if parts.axis is None or not -ndim <= parts.axis < ndim:
        raise ValueError(
            f"{name} has {parts.scale.size} scales along axis {parts.axis}, its codes have "
            f"{ndim} axes: the axis is out of range."
        )
    return parts.axis % ndim


def _refuse_apart(parts: OnnxParts, axis: int | None, name: str) -> None:
    """Raises unless dtypes and shapes are what `OnnxParts` says."""
    codes, scale, zero = parts.codes, parts.scale, parts.zero_point
    if codes.dtype.name not in ("int8", "uint8") or parts.bits not in (4, 8):
        raise ValueError(
            f"{name} has codes of {codes.dtype.name} and {parts.bits} bits; of 4 or 8 bits they "
            "can be read."
        )
    if scale.dtype.name not in _SCALES:
        raise ValueError(f"{name} has scales of {scale.dtype.name}, not one of {_SCALES}.")
    shape = tuple(scale.shape)
    if axis is not None and not parts.block_size:
        shape = (codes.shape[axis],)
    if axis is not None and parts.block_size:
        blocks = -(-codes.shape[axis] // parts.block_size)
        shape = (*codes.shape[:axis], blocks, *codes.shape[axis + 1 :])
    if scale.shape != shape:
        raise ValueError(
            f"{name} of {list(codes.shape)} takes scales of {list(shape)} along axis {axis}, "
            f"found {list(scale.shape)}."
        )
    if zero is not None and (zero.shape != shape or zero.dtype != codes.dtype):
        raise ValueError(
            f"{name} takes zero points of {codes.dtype.name}{list(shape)}, found "
            f"{zero.dtype.name}{list(zero.shape)}."
        )


def _format(parts: OnnxParts, axis: int | None, grid: Integers) -> Format:
    scale_dtype, shape = parts.scale.dtype.name, parts.codes.shape
    if axis is None:
        return Format(grid, None, None, scale_dtype)
    if parts.block_size:
        whole = parts.block_size >= shape[axis] and len(shape) > 1
        return Format(grid, axis - len(shape), None if whole else parts.block_size, scale_dtype)
    others = tuple(i for i in range(len(shape)) if i != axis)
    if not others:  # a vector with a scale for each entry
        return Format(grid, -1, 1, scale_dtype)
    return Format(grid, others[0] - len(shape) if len(others) == 1 else others, None, scale_dtype)
