"""The tensors of ONNX: raw bytes, numbers in typed fields, or bytes in a file beside the model."""

from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wlab.checkpoint.formats.numbers import checked_dtype, checked_shape
from wlab.checkpoint.formats.protobuf import BYTES, Data, Field, fields, varints
from wlab.checkpoint.source import Lazy

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    24: "float8_e8m0fnu",
}
_TEXT = 8
# The field of numbers in which each dtype may stand; all others stand in int32_data.
_FLOATS, _INTS, _LONGS, _DOUBLES, _UNSIGNED = 4, 5, 7, 10, 11
_FIELDS = {"float32": _FLOATS, "complex64": _FLOATS, "float64": _DOUBLES, "complex128": _DOUBLES}
_FIELDS |= {"int64": _LONGS, "uint32": _UNSIGNED, "uint64": _UNSIGNED}
_NUMBERS = (_FLOATS, _INTS, _LONGS, _DOUBLES, _UNSIGNED)
_RAW = 9


class Place(NamedTuple):
    """Where a tensor's bytes are, and whether they are varints."""

    path: Path
    pieces: tuple[tuple[int, int], ...]
    packed: bool = False

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return sum(end - begin for begin, end in self.pieces)


class Tensor(NamedTuple):
    """A TensorProto as it is described; only its fields have been checked."""

    name: str
    code: int
    sizes: list[int]
    numbers: dict[int, list[tuple[int, int]]]
    external: dict[str, str] | None

    @property
    def is_text(self) -> bool:
        """Whether its elements are strings."""
        return self.code == _TEXT


def tensor(data: Data, begin: int, end: int) -> Tensor:
    """Reads a TensorProto, all but its numbers.

    Raises:
        ValueError: If it is damaged.
    """
    name, code, sizes, where = "", 0, [], 0
    numbers: dict[int, list[tuple[int, int]]] = {}
    external: dict[str, str] = {}
    for field in fields(data, begin, end):
        match field.number, field.kind:
            case 1, 0:
                sizes.append(field.value)
            case 1, 2:
                sizes += varints(np.frombuffer(data[field.begin : field.end], np.uint8)).tolist()
            case 2, 0:
                code = field.value
            case 8, 2:
                name = text(data, field)
            case 13, 2:
                external |= [pair(data, field)]
            case 14, 0:
                where = field.value
            case number, kind if number in (*_NUMBERS, _RAW):
                if kind != BYTES:
                    raise ValueError(f"tensor {name!r} has its numbers one by one, not packed")
                numbers.setdefault(number, []).append((field.begin, field.end))
            case _:
                pass
    return Tensor(name, code, sizes, numbers, external if where else None)


def text(data: Data, field: Field) -> str:
    """The text of a field."""
    return data[field.begin : field.end].decode("utf-8", "replace")


def pair(data: Data, field: Field) -> tuple[str, str]:
    """The key and the value of a StringStringEntryProto."""
    parts = {f.number: text(data, f) for f in fields(data, field.begin, field.end)}
    return parts.get(1, ""), parts.get(2, "")


def lazy(path: Path, found: Tensor) -> Lazy:
    """The tensor as an array that stays in its file.

    Args:
        path: The model, in whose folder external data must lie.
        found: One of its tensors.

    Raises:
        ValueError: If its bytes are not as many as its shape and dtype need, or are elsewhere.
    """
    try:
        if found.code not in DTYPES:
            raise ValueError(f"its data type is the number {found.code}, which is not read")
        dtype, shape = checked_dtype(DTYPES[found.code]), checked_shape(found.sizes)
        place = _place(path, found, dtype.name)
        size = prod(shape)
        nibbles = dtype.name in ("int4", "uint4")
        width = 1 if nibbles else dtype.itemsize
        needed = -(-size // 2) if nibbles else size * width
        # A varint has one byte at least; how many there are is seen when they are decoded.
        if place.nbytes < needed // width if place.packed else place.nbytes != needed:
            raise ValueError(f"{dtype.name}{list(shape)} is not its {place.nbytes:,} bytes")
    except ValueError as error:
        raise ValueError(f"tensor {found.name!r} cannot be read: {error}") from None

    def read() -> np.ndarray:
        try:
            raw = _bytes(place, needed, width)
        except ValueError as error:
            raise ValueError(f"{path}: tensor {found.name!r} cannot be read: {error}.") from None
        flat = _nibbles(raw, size, dtype) if nibbles else raw.view(dtype.newbyteorder("<"))
        return flat.astype(dtype, copy=False).reshape(shape)

    return Lazy(shape, dtype.name, place.nbytes, read)


def _place(path: Path, found: Tensor, dtype: str) -> Place:
    if found.external is not None:
        return _external(path, found.external)
    if _RAW in found.numbers:
        return Place(path, tuple(found.numbers[_RAW]))
    number = _FIELDS.get(dtype, _INTS)
    return Place(path, tuple(found.numbers.get(number, ())), number in (_INTS, _LONGS, _UNSIGNED))


def _external(path: Path, entries: dict[str, str]) -> Place:
    location, folder = entries.get("location", ""), path.parent.resolve()
    try:
        file = (folder / location).resolve()
        size = file.stat().st_size if file.is_file() else None
    except (OSError, RuntimeError):  # a name too long, a loop of links
        file, size = folder, None
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ValueError(f"its data is in {location[:200]!r}, outside the folder of the model")
    if size is None:
        raise ValueError(f"its data is in {location[:200]!r}, which is not there")
    given = [entries.get("offset", "0"), entries.get("length", "")]
    if not all(text.isascii() and len(text) < 20 and text.isdigit() for text in given if text):
        raise ValueError("the offset or length of its data is not a number")
    offset = int(given[0] or 0)
    end = offset + int(given[1]) if given[1] else max(size, offset)
    if end > size:
        raise ValueError(f"{location!r} has {size:,} bytes, its data is at {offset:,} to {end:,}")
    return Place(file, ((offset, end),))


def _bytes(place: Place, needed: int, width: int) -> np.ndarray:
    raw = bytearray()
    with place.path.open("rb") as file:
        for begin, end in place.pieces:
            file.seek(begin)
            raw += file.read(end - begin)
    found = np.frombuffer(raw, np.uint8)
    if place.packed:
        found = varints(found).astype(f"<i{width}").view(np.uint8)
    if found.size != needed:
        raise ValueError(f"it needs {needed:,} bytes, {found.size:,} are there")
    return found


def _nibbles(raw: np.ndarray, size: int, dtype: np.dtype) -> np.ndarray:
    """Two elements a byte, the lower half first; int4 is in two's complement."""
    codes = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[:size].astype(np.int8)
    return ((codes ^ 8) - 8 if dtype.name == "int4" else codes).astype(dtype)
