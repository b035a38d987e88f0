"""GGUF out: one tensor at a time, encoded on the way or passed through byte for byte."""

import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.formats.gguf_blocks import ENCODED, encode
from wlab.checkpoint.formats.gguf_header import ALIGNMENT, MAGIC, MAX_DIMS, VALUES
from wlab.checkpoint.formats.gguf_types import ENCODINGS
from wlab.checkpoint.source import Lazy
from wlab.checkpoint.steps import PathLike

_CODES = {name: code for code, name in enumerate(VALUES)}
_OF_DTYPE = {e.dtype: name for name, e in ENCODINGS.items() if e.dtype is not None}
_FLOATS = ("float32", "float16", "bfloat16", "float64")
_MAX_NAME = 63  # bytes; ggml refuses longer ones


class _Planned(NamedTuple):
    encoding: str
    shape: tuple[int, ...]
    nbytes: int
    produce: Callable[[], np.ndarray]  # plain numbers or blocks


def save_gguf(
    path: PathLike,
    arrays: Mapping[str, np.ndarray | Lazy],
    *,
    metadata: Mapping[str, Any],
    types: Mapping[str, str] | None = None,
    encodings: Mapping[str, str] | None = None,
) -> None:
    """Writes a GGUF file (version 3), which takes its name only when it is complete.

    A `Lazy` array is read when its turn comes, so that one array is in memory at a time; its
    blocks are passed through if they are ggml's.

    Args:
        path: The file, by custom ending in `.gguf`.
        arrays: By ggml's names, as `blk.0.attn_q.weight`; rows first.
        metadata: Hyper-parameters and vocabularies. llama.cpp wants `general.architecture`.
        types: What to call values, as `gguf_header(path).types` has them: `uint16`, `float64`,
            `int8[]`. Otherwise an int becomes uint32 (int32 if negative, 64 bits if larger), in
            lists int32 before int64, and a float float32.
        encodings: The type of arrays that are not to be written as they are, as `Q8_0`.

    Raises:
        ValueError: If a name, shape, dtype, encoding or value has no place in the format,
            naming it.
    """
    types, encodings = types or {}, encodings or {}
    for name in (*(types.keys() - metadata.keys()), *(encodings.keys() - arrays.keys())):
        raise ValueError(f"save_gguf: {name!r} is given a type, but is not among what is saved.")
    plan = {name: _planned(name, array, encodings.get(name)) for name, array in arrays.items()}
    alignment = _alignment(metadata, types)
    header = [MAGIC, struct.pack("<IQQ", 3, len(plan), len(metadata))]
    header += [_entry(key, value, types.get(key)) for key, value in metadata.items()]
    at = 0
    for name, tensor in plan.items():
        header.append(_info(name, tensor, at))
        at += -(-tensor.nbytes // alignment) * alignment
    with written_whole(path) as file:
        _write_padded(file, b"".join(header), alignment)
        for name, tensor in plan.items():
            _write_padded(file, _bytes(name, tensor), alignment)


def _alignment(metadata: Mapping[str, Any], types: Mapping[str, str]) -> int:
    alignment = metadata.get(ALIGNMENT, 32)
    sound = type(alignment) is int and 0 < alignment < 2**32 and alignment.bit_count() == 1
    if not sound or types.get(ALIGNMENT, "uint32") != "uint32":
        raise ValueError(f"save_gguf: {ALIGNMENT} is {alignment!r}, not a uint32 power of two.")
    return alignment


def _bytes(name: str, tensor: _Planned) -> memoryview:
    array = tensor.produce()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.nbytes != tensor.nbytes:
        raise ValueError(
            f"save_gguf: array {name!r} gave {little.nbytes:,} bytes, {list(tensor.shape)} in "
            f"{tensor.encoding} takes {tensor.nbytes:,}."
        )
    return little.reshape(-1).view(np.uint8).data


def _planned(name: str, array: np.ndarray | Lazy, wanted: str | None) -> _Planned:
    shape, dtype = tuple(array.shape), np.dtype(array.dtype).name
    encoding = wanted or _own(array)
    if encoding is None:
        raise ValueError(
            f"save_gguf: array {name!r} is {dtype}, which the format lacks; cast it or omit it."
        )
    produce = array.read if isinstance(array, Lazy) else lambda: array
    if isinstance(array, Lazy) and array.blocks is not None and encoding == array.encoding:
        produce = array.blocks
    elif encoding != _OF_DTYPE.get(dtype):
        produce = _encoder(name, dtype, produce, encoding)
    return _Planned(encoding, shape, _nbytes(name, encoding, shape), produce)


def _own(array: np.ndarray | Lazy) -> str | None:
    """The type that needs no encoding."""
    if isinstance(array, Lazy) and array.blocks is not None and array.encoding in ENCODINGS:
        return array.encoding
    return _OF_DTYPE.get(np.dtype(array.dtype).name)


def _encoder(
    name: str, dtype: str, read: Callable[[], np.ndarray], encoding: str
) -> Callable[[], np.ndarray]:
    if encoding not in ENCODED or dtype not in _FLOATS:
        raise ValueError(
            f"save_gguf: array {name!r} of {dtype} cannot be written as {encoding!r}; "
            f"{', '.join(_FLOATS)} can, as {', '.join(ENCODED)}."
        )

    def produce() -> np.ndarray:
        array = np.atleast_1d(read()).astype(np.float32, copy=False)
        try:
            return encode(array.reshape(prod(array.shape[:-1]), array.shape[-1]), encoding)
        except ValueError as error:
            raise ValueError(f"save_gguf: array {name!r}: {error}") from None

    return produce


def _nbytes(name: str, encoding: str, shape: tuple[int, ...]) -> int:
    kind, width = ENCODINGS[encoding], shape[-1] if shape else 1
    if width % kind.size:
        raise ValueError(
            f"save_gguf: array {name!r} has rows of {width:,}, not whole {encoding} blocks of "
            f"{kind.size}; keep it as F16."
        )
    return prod(shape) // kind.size * kind.nbytes


def _info(name: str, tensor: _Planned, offset: int) -> bytes:
    text, dims = name.encode(), len(tensor.shape)
    if len(text) > _MAX_NAME or dims > MAX_DIMS:
        raise ValueError(
            f"save_gguf: array {name!r} has {dims} dimensions and a name of {len(text)} bytes; "
            f"ggml takes at most {MAX_DIMS} and {_MAX_NAME}. Reshape or rename it."
        )
    rest = struct.pack(
        f"<I{dims}QIQ", dims, *tensor.shape[::-1], ENCODINGS[tensor.encoding].code, offset
    )
    return struct.pack("<Q", len(text)) + text + rest


def _entry(key: str, value: Any, kind: str | None) -> bytes:
    if isinstance(value, np.ndarray | np.generic):
        kind = kind or value.dtype.name + "[]" * value.ndim
        value = value.tolist()
    kind = kind or _inferred(key, value)
    element = kind.removesuffix("[]")
    if element not in VALUES or element == "array":
        raise ValueError(f"save_gguf: metadata {key!r} is of the unknown type {kind!r}.")
    many = kind != element
    values = value if many else [value]
    wanted = {"string": str, "bool": bool}.get(element, int | float)
    if not isinstance(values, list | tuple) or not all(isinstance(v, wanted) for v in values):
        raise ValueError(f"save_gguf: metadata {key!r} is not {kind}.")
    codes = ["array", element] if many else [element]
    head = struct.pack(f"<{len(codes)}I", *(_CODES[code] for code in codes))
    try:
        return (
            _string(key) + head + struct.pack("<Q", len(values)) * many + _packed(values, element)
        )
    except (struct.error, OverflowError, UnicodeError) as error:
        raise ValueError(f"save_gguf: metadata {key!r} is not {kind}: {error}.") from None


def _packed(values: Sequence[Any], kind: str) -> bytes:
    if kind == "string":
        return b"".join(map(_string, values))
    return struct.pack(f"<{len(values)}{VALUES[kind]}", *values)


def _string(text: str) -> bytes:
    encoded = text.encode(errors="surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def _inferred(key: str, value: Any) -> str:
    many = isinstance(value, list | tuple)
    values = value if many else [value]
    kinds = {type(each) for each in values}
    if kinds in ({bool}, {str}):
        element = "bool" if kinds == {bool} else "string"
    elif kinds == {int}:
        small = ("int32", "int64", "uint64") if many else ("uint32", "int32", "int64", "uint64")
        low, high = min(values), max(values)
        fits = [k for k in small if np.iinfo(k).min <= low and high <= np.iinfo(k).max]
        element = fits[0] if fits else "int64"
    elif kinds and kinds <= {int, float}:
        element = "float32"
    else:
        found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "empty"
        raise ValueError(
            f"save_gguf: the type of metadata {key!r} ({found}) cannot be inferred; name it in "
            "`types`, or leave it out."
        )
    return element + "[]" * many


def _write_padded(file: BinaryIO, data: bytes | memoryview, alignment: int) -> None:
    file.write(data)
    file.write(bytes(-len(data) % alignment))
