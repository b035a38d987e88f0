"""A quantized array is a pytree node that stands where the array stood."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wlab.quantization.formats import Format
from wlab.quantization.packing import packed_length
from wlab.quantization.scales import storage

PARTS = ("codes", "scale", "zero_point", "outer")  # the children of a QTensor


@partial(
    jax.tree_util.register_dataclass,
    data_fields=PARTS,
    meta_fields=("format", "length", "dtype"),
)
@dataclass(frozen=True)
class QTensor:
    """Packed codes with their scales: value = (code − zero_point) · scale.

    Invariants, checked by `check`:
        codes: uint8, the array's shape but for the last axis, of `packed_length` bytes.
        scale: `format.scale_dtype` (uint8 if that has 8 bits), of shape
            `format.scale_shape(shape)`; None if the grid has no scales.
        zero_point: uint8, shaped as `scale`, or of its dtype if the grid stores its minimum;
            None in a symmetric format.
        outer: float32 of the array's rank and size 1; None unless `format.outer`.

    These four are the node's children: arrays, or whatever a tree map puts there.
    A stack made by `vmap`, as `scan` takes it, is a QTensor again.

    Attributes:
        codes: The packed codes, see `pack`.
        scale: The scale of each block.
        zero_point: The code of each block that stands for zero, or the value of code 0.
        format: The convention that all of it follows.
        length: The size of the array's last axis, which packing hides.
        dtype: The name of the array's dtype.
        outer: The scale of the scales.
    """

    codes: Any
    scale: Any
    zero_point: Any
    format: Format
    length: int
    dtype: str
    outer: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return (*self.codes.shape[:-1], self.length)


def is_qtensor(x: Any) -> bool:
    """Whether a node of a tree is a QTensor; for `is_leaf=`."""
    return isinstance(x, QTensor)


def check(q: QTensor, name: str = "QTensor") -> None:
    """Raises unless the children, arrays or shapes, are what the format says.

    Raises:
        ValueError: Naming the child, what it is and what it should be.
    """
    format, grid = q.format, q.format.grid
    packed, scales = packed_length(q.length, grid.bits), format.scale_shape(q.shape)
    _expect(f"{name}/codes", q.codes, (*q.shape[:-1], packed), "uint8")
    for child, has, shape, dtype, kind in (
        ("scale", grid.scaled, scales, storage(format.scale_dtype), "a plain cast"),
        ("zero_point", not grid.symmetric, scales, zero_dtype(format), "symmetric"),
        ("outer", format.outer, (1,) * len(q.shape), "float32", "of one level of scales"),
    ):
        if has:
            _expect(f"{name}/{child}", getattr(q, child), shape, dtype)
        elif getattr(q, child) is not None:
            raise ValueError(f"{name}/{child}: {format} is {kind} and has none; drop it.")


def zero_dtype(format: Format) -> str:
    """The dtype of zero points: bytes for codes, the scales' for minima."""
    return format.scale_dtype if format.grid.reach == "free" else "uint8"


def _expect(name: str, child: Any, shape: tuple[int, ...], dtype: str) -> None:
    found = None if child is None else (jnp.shape(child), jnp.result_type(child).name)
    if found != (shape, dtype):
        raise ValueError(
            f"{name}: expected {dtype}{list(shape)}, found {found}. "
            "The codes and the format do not belong together."
        )
