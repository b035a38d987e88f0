"""Arrays without their zeros: positions and values, bit for bit.

All of it is NumPy on the host, for files and counts of bytes.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from wlab.pruning.forms import NM, Bitmask, Form, group_shape, grouped, is_kept


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("positions", "values"),
    meta_fields=("form", "shape"),
)
@dataclass(frozen=True)
class Sparse:
    """An array without its zeros; a pytree node that stands where the array stood.

    Attributes:
        positions: uint8, as the form packs them.
        values: The kept values in order; of N:M, `(…, groups, keep)` with the axis moved last.
        form: How the positions are written down.
        shape: Of the array.
    """

    positions: Any
    values: Any
    form: Form
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of positions and values."""
        return self.positions.nbytes + self.values.nbytes


def compress(array: Any, form: Form) -> Sparse:
    """Leaves out the zeros; `decompress` gives back every bit.

    Args:
        array: Of any shape and of any dtype that NumPy holds.
        form: How to write down what is kept.

    Raises:
        ValueError: If a group of an N:M form holds more entries than it has places, or the
            array has no such axis.
    """
    array = np.asarray(array)
    if isinstance(form, Bitmask):
        flat = array.reshape(-1)
        kept = is_kept(flat)
        return Sparse(np.packbits(kept, bitorder="little"), flat[kept], form, array.shape)
    groups = grouped(array, form)
    kept = is_kept(groups)
    most = int(np.count_nonzero(kept, axis=-1).max(initial=0))
    if most > form.keep:
        raise ValueError(
            f"compress: {form} has too few places: {most} of {form.of} neighbours along axis "
            f"{form.axis} are kept. Prune them first, or use Bitmask()."
        )
    first = np.argsort(~kept, axis=-1, kind="stable")[..., : form.keep]
    places = np.sort(first, axis=-1).astype(np.uint8)
    values = np.take_along_axis(groups, places.astype(np.intp), axis=-1)
    return Sparse(_packed(places, form.bits), values, form, array.shape)


def decompress(sparse: Sparse) -> Shaped[np.ndarray, "..."]:
    """The array that was compressed."""
    form, shape, values = sparse.form, sparse.shape, np.asarray(sparse.values)
    if isinstance(form, Bitmask):
        flat = np.zeros(prod(shape), values.dtype)
        flat[_bitmask(sparse)] = values
        return flat.reshape(shape)
    groups = np.zeros((*values.shape[:-1], form.of), values.dtype)
    np.put_along_axis(groups, _places(sparse, form).astype(np.intp), values, axis=-1)
    rows = groups.reshape(*groups.shape[:-2], groups.shape[-2] * form.of)
    return np.ascontiguousarray(np.moveaxis(rows[..., : shape[form.axis]], -1, form.axis))


def check_sparse(sparse: Sparse, name: str = "Sparse") -> None:
    """Raises unless positions and values are what form and shape say.

    Raises:
        ValueError: Naming the part, what it is and what it should be.
    """
    form, shape = sparse.form, sparse.shape
    if isinstance(form, Bitmask):
        _expect(f"{name}.positions", sparse.positions, (-(-prod(shape) // 8),), np.uint8)
        kept = int(np.count_nonzero(_bitmask(sparse)))
        _expect(f"{name}.values", sparse.values, (kept,), sparse.values.dtype)
        return
    slots = (*group_shape(shape, form), form.keep)
    _expect(f"{name}.values", sparse.values, slots, sparse.values.dtype)
    size = -(-prod(slots) * form.bits // 8)
    _expect(f"{name}.positions", sparse.positions, (size,), np.uint8)
    found = _places(sparse, form).astype(np.int16)
    if found.max(initial=0) >= form.of or (np.diff(found, axis=-1) <= 0).any():
        raise ValueError(
            f"{name}.positions: places within a group must rise and be below {form.of}."
        )


def _bitmask(sparse: Sparse) -> Bool[np.ndarray, " size"]:
    """Which entries a bitmask keeps, in flat order."""
    bits = np.unpackbits(np.asarray(sparse.positions), count=prod(sparse.shape), bitorder="little")
    return bits.view(bool)


def _places(sparse: Sparse, form: NM) -> UInt8[np.ndarray, "... keep"]:
    """The places of the values within their groups."""
    shape = np.shape(sparse.values)
    count = prod(shape) * form.bits
    bits = np.unpackbits(np.asarray(sparse.positions), count=count, bitorder="little")
    digits = bits.reshape(-1, form.bits) << np.arange(form.bits, dtype=np.uint8)
    return digits.sum(axis=-1, dtype=np.uint8).reshape(shape)


def _packed(numbers: UInt8[np.ndarray, "..."], bits: int) -> UInt8[np.ndarray, " bytes"]:
    digits = numbers.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
    return np.packbits(digits, bitorder="little")


def _expect(name: str, part: Any, shape: tuple[int, ...], dtype: Any) -> None:
    if (part.shape, part.dtype) != (shape, dtype):
        wanted = f"{np.dtype(dtype).name}{list(shape)}"
        raise ValueError(
            f"{name}: expected {wanted}, found {np.dtype(part.dtype).name}{list(part.shape)}."
        )
