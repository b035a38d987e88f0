"""The header of a GGUF file, believed only after it has been checked against the file.

Layout, all little-endian: `GGUF`, version, the counts of tensors and of keys, the keys with
their values, the tensors' names, shapes, types and offsets, padding, then the tensors.

Reference: ggml, `docs/gguf.md`.
"""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wlab.checkpoint.formats.front import Front
from wlab.checkpoint.formats.gguf_types import ENCODINGS
from wlab.checkpoint.formats.shapes import can_be_held

MAGIC = b"GGUF"
ALIGNMENT = "general.alignment"
MAX_DIMS = 4
VALUES = {  # by their order in the file format; the codes are those of `struct`
    "uint8": "B",
    "int8": "b",
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "float32": "f",
    "bool": "?",
    "string": "",
    "array": "",
    "uint64": "Q",
    "int64": "q",
    "float64": "d",
}
_VALUES = tuple(VALUES)
_ENCODINGS = {encoding.code: name for name, encoding in ENCODINGS.items()}
_MAX_HEADER = 200_000_000  # bytes; vocabularies of 256,000 tokens take about ten million


class Tensor(NamedTuple):
    """Where a tensor stands: its type, shape with rows first, and bytes from the file's start."""

    encoding: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Contents(NamedTuple):
    """What the header says.

    Attributes:
        metadata: The values by key; text as str (bytes that are not UTF-8 escaped as in
            `errors="surrogateescape"`), arrays as lists.
        types: What the file calls each value, as `uint32`, `string` or `float32[]`.
        tensors: In the file's order.
    """

    metadata: dict[str, Any]
    types: dict[str, str]
    tensors: dict[str, Tensor]


def gguf_header(path: Path) -> Contents:
    """Reads and checks the header.

    Raises:
        ValueError: If the file is not GGUF of version 2 or 3, is truncated, or its header does
            not describe it: unknown types, names that occur twice, arrays of arrays (which
            ggml has no place for either), tensors that are misaligned, overlap or pass its end.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        front = Front(path, file, min(size, _MAX_HEADER))
        tensors, keys = _counts(front)
        metadata: dict[str, Any] = {}
        types: dict[str, str] = {}
        for _ in range(keys):
            key = _name(front, "a metadata key")
            if key in metadata:
                raise ValueError(f"{path}: the metadata key {key!r} occurs twice.")
            types[key], metadata[key] = _value(front, key)
        alignment = _alignment(path, metadata, types)
        found: dict[str, Tensor] = {}
        for _ in range(tensors):
            name = _name(front, "a tensor's name")
            if name in found:
                raise ValueError(f"{path}: tensor {name!r} occurs twice.")
            found[name] = _tensor(front, name, alignment)
        start = -(-file.tell() // alignment) * alignment
    placed = {n: t._replace(begin=t.begin + start, end=t.end + start) for n, t in found.items()}
    _check_extents(path, placed, size)
    return Contents(metadata, types, placed)


def _counts(front: Front) -> tuple[int, int]:
    if front.take(min(4, front.left), "the magic") != MAGIC:
        raise ValueError(f"{front.path} is not a GGUF file: it does not begin with {MAGIC!r}.")
    version = front.number("I", "the version")
    if version not in (2, 3):
        kind = "big-endian, or damaged" if version & 0xFFFF == 0 else "of another version"
        raise ValueError(
            f"{front.path} is {kind}: its version reads {version}, 2 and 3 are known. "
            "Convert it with ggml's tools."
        )
    return front.number("Q", "the number of tensors"), front.number("Q", "the number of keys")


def _name(front: Front, what: str) -> str:
    text = front.take(front.number("Q", what), what)
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{front.path}: {what} is not UTF-8: {text[:40]!r}.") from None


def _value(front: Front, key: str) -> tuple[str, Any]:
    what = f"metadata {key!r}"
    kind = _kind(front, what)
    if kind == "array":
        kind, count = _kind(front, what), front.number("Q", what)
        if kind == "array":
            raise ValueError(f"{front.path}: {what} is an array of arrays, which is not read.")
        values = (
            _strings(front, count, what) if kind == "string" else _many(front, kind, count, what)
        )
        return f"{kind}[]", values
    return kind, _strings(front, 1, what)[0] if kind == "string" else _many(front, kind, 1, what)[0]


def _kind(front: Front, what: str) -> str:
    code = front.number("I", what)
    if code >= len(_VALUES):
        raise ValueError(f"{front.path}: {what} is of the unknown type {code}.")
    return _VALUES[code]


def _many(front: Front, kind: str, count: int, what: str) -> list[Any]:
    dtype = np.dtype(kind).newbyteorder("<")
    raw = front.take(count * dtype.itemsize, what)
    if kind == "bool" and raw.translate(None, b"\0\1"):
        raise ValueError(f"{front.path}: {what} is bool, but has bytes other than 0 and 1.")
    return np.frombuffer(raw, dtype).tolist()


def _strings(front: Front, count: int, what: str) -> list[str]:
    """One tight loop: a vocabulary has a hundred thousand of them."""
    front.spend(8 * count, what)
    read, left, length = front.file.read, front.left, 0
    found: list[str] = []
    for _ in range(count):
        length = int.from_bytes(read(8), "little")
        left -= length
        if left < 0:
            break
        found.append(read(length).decode(errors="surrogateescape"))
    if left < 0:
        front.spend(length, f"string {len(found):,} of {what}")
    front.left = left
    return found


def _alignment(path: Path, metadata: dict[str, Any], types: dict[str, str]) -> int:
    alignment = metadata.get(ALIGNMENT, 32)
    if types.get(ALIGNMENT, "uint32") != "uint32" or alignment.bit_count() != 1:
        raise ValueError(
            f"{path}: {ALIGNMENT} is {types[ALIGNMENT]} {alignment}, not a uint32 power of two."
        )
    return alignment


def _tensor(front: Front, name: str, alignment: int) -> Tensor:
    what = f"tensor {name!r}"
    dims = front.number("I", what)
    if dims > MAX_DIMS:
        raise ValueError(f"{front.path}: {what} has {dims} dimensions, ggml at most {MAX_DIMS}.")
    shape = front.numbers(f"{dims}Q", what)[::-1]
    code, offset = front.number("I", what), front.number("Q", what)
    if code not in _ENCODINGS:
        raise ValueError(f"{front.path}: {what} is of the unknown type {code}.")
    encoding = ENCODINGS[_ENCODINGS[code]]
    width = shape[-1] if shape else 1
    if width % encoding.size:
        raise ValueError(
            f"{front.path}: {what} has rows of {width:,}, not whole {_ENCODINGS[code]} blocks of "
            f"{encoding.size}."
        )
    if not can_be_held(shape):
        raise ValueError(f"{front.path}: {what} claims the shape {list(shape)}.")
    if offset % alignment:
        raise ValueError(
            f"{front.path}: {what} at offset {offset:,} is not aligned to {alignment}."
        )
    nbytes = prod(shape) // encoding.size * encoding.nbytes
    return Tensor(_ENCODINGS[code], shape, offset, offset + nbytes)


def _check_extents(path: Path, tensors: dict[str, Tensor], size: int) -> None:
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin < at:
            raise ValueError(f"{path}: tensor {name!r} overlaps the one before it.")
        if tensor.end > size:
            raise ValueError(
                f"{path}: tensor {name!r} ends at byte {tensor.end:,}, the file at {size:,}; it is "
                "truncated or damaged."
            )
        at = tensor.end
