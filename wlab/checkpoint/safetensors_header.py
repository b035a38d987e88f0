"""The header of a safetensors file, believed only after it has been checked against the file.

Layout: 8 bytes of length, that many bytes of JSON, then the arrays end to end.
"""

import json
import re
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
_MAX_HEADER = 100_000_000  # bytes, as in the reference reader


def bits(dtype: str) -> int:
    """Bits of one element, read off the dtype's name: 16 for bfloat16, 8 for float8_e4m3fn."""
    number = re.search(r"\d+", dtype)
    return int(number.group()) if number else 8


class Tensor(NamedTuple):
    """Where an array stands in the file, in bytes from its start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Contents(NamedTuple):
    """The arrays by path, and the text saved beside them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def safetensors_header(path: Path) -> Contents:
    """Reads and checks the header.

    Raises:
        ValueError: If the file is not safetensors, is truncated, or its header does not
            describe it: unknown dtypes, arrays that overlap, leave gaps or pass its end.
    """
    size = path.stat().st_size
    fields, start = _json(path, size)
    metadata = fields.pop("__metadata__", {})
    tensors = {name: _tensor(path, name, field, start) for name, field in fields.items()}
    at = start
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != at:
            what = "overlaps the array before it" if tensor.begin < at else "leaves a gap"
            raise ValueError(f"{path}: array {name!r} {what}, at byte {tensor.begin}.")
        at = tensor.end
    if at != size:
        raise ValueError(f"{path}: the header describes {at:,} bytes, the file has {size:,}.")
    return Contents(tensors, metadata)


def _json(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise ValueError(
                f"{path} is not safetensors or is truncated: its header claims {length:,} bytes, "
                f"the file has {size:,}."
            )
        try:
            fields = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: the header is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: the header is a JSON {type(fields).__name__}, not an object.")
    return fields, 8 + length


def _tensor(path: Path, name: str, field: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = field["dtype"], tuple(field["shape"]), field["data_offsets"]
        numbers_ok = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: the header of array {name!r} is malformed: {field}.") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{path}: array {name!r} has the unknown dtype {dtype!r}.")
    if not numbers_ok or end - begin != prod(shape) * bits(DTYPES[dtype]) // 8:
        raise ValueError(
            f"{path}: array {name!r} is {dtype}{list(shape)} but stands at bytes {begin} to {end}."
        )
    return Tensor(DTYPES[dtype], shape, start + begin, start + end)
