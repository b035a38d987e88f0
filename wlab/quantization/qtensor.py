"""A quantized array is a pytree node that stands where the array stood."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wlab.quantization.formats import Format
from wlab.quantization.packing import packed_length


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("codes", "scale", "zero_point"),
    meta_fields=("format", "length", "dtype"),
)
@dataclass(frozen=True)
class QTensor:
    """Packed codes with their scales: value = (code − zero_point) · scale.

    Invariants, checked by `check`:
        codes: uint8, the array's shape but for the last axis, of `packed_length` bytes.
        scale: `format.scale_dtype`, of shape `format.scale_shape(shape)`.
        zero_point: uint8, shaped as `scale`; None in a symmetric format.

    The first three are the node's children: arrays, or whatever a tree map puts there.
    A stack made by `vmap`, as `scan` takes it, is a QTensor again.

    Attributes:
        codes: The packed codes, see `pack`.
        scale: The scale of each block.
        zero_point: The code of each block that stands for zero.
        format: The convention that all of it follows.
        length: The size of the array's last axis, which packing hides.
        dtype: The name of the array's dtype.
    """

    codes: Any
    scale: Any
    zero_point: Any
    format: Format
    length: int
    dtype: str

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
    packed = packed_length(q.length, q.format.grid.bits)
    scales = q.format.scale_shape(q.shape)
    _expect(f"{name}/codes", q.codes, (*q.shape[:-1], packed), "uint8")
    _expect(f"{name}/scale", q.scale, scales, q.format.scale_dtype)
    if not q.format.grid.symmetric:
        _expect(f"{name}/zero_point", q.zero_point, scales, "uint8")
    elif q.zero_point is not None:
        raise ValueError(f"{name}/zero_point: {q.format} is symmetric and has none; drop it.")


def _expect(name: str, child: Any, shape: tuple[int, ...], dtype: str) -> None:
    found = None if child is None else (jnp.shape(child), jnp.result_type(child).name)
    if found != (shape, dtype):
        raise ValueError(
            f"{name}: expected {dtype}{list(shape)}, found {found}. "
            "The codes and the format do not belong together."
        )
