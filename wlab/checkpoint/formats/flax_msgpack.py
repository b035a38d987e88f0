"""Files of `flax.serialization`: one msgpack value of nested maps, with arrays in it as extensions.

An array is the extension 1 (a NumPy scalar: 3) around a second msgpack value: shape, name of the
dtype, bytes. One of more than a GiB is a map of flat chunks. Only what stands before the bytes is
read until an array is asked for.
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wlab.checkpoint.formats.flattening import flatten, keyed
from wlab.checkpoint.formats.numbers import checked_dtype, checked_shape
from wlab.checkpoint.source import Lazy, Source, span

ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"
_MAX_DEPTH = 100


def open_msgpack(path: Path) -> Source:
    """The arrays of a flax file by path, as `params/Dense_0/kernel`.

    What is no array is in the metadata, nested as in the file.

    Raises:
        ValueError: If the file is not msgpack, is cut off or goes on behind its value, nests
            deeper than 100 levels, or has an array whose bytes do not fit its shape and dtype.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data, 0, len(data))
            root = reader.value()
            if reader.at != len(data):
                raise ValueError(f"its value ends at byte {reader.at:,} of {len(data):,}")
        arrays, rest = flatten(root, lambda name, value: _opened(path, name, value), separator="/")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a file of flax: {error}.") from None
    return Source(path, "msgpack", arrays, rest)


class _Bytes(NamedTuple):
    """Bytes that were left in the file."""

    begin: int
    end: int


class _Array(NamedTuple):
    """An array as it is described: nothing of it has been checked."""

    scalar: bool
    description: Any


class _Reader:
    """Reads one value after another, up to `end`."""

    def __init__(self, data: mmap.mmap, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def skip(self, count: int) -> _Bytes:
        if count > self.end - self.at:
            left = self.end - self.at
            raise ValueError(
                f"at byte {self.at:,} it needs {count:,} more bytes, {left:,} are left"
            )
        self.at += count
        return _Bytes(self.at - count, self.at)

    def raw(self, count: int) -> bytes:
        begin, end = self.skip(count)
        return self.data[begin:end]

    def number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self.raw(struct.calcsize(form)))[0]

    def value(self, depth: int = 0) -> Any:
        kind = self.number("B")
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 0x100
        if kind < 0xC0:
            family, size = ("map", kind & 15) if kind < 0x90 else ("array", kind & 15)
            family, size = ("text", kind & 31) if kind >= 0xA0 else (family, size)
        elif kind in _EXTENSIONS:
            family, size = "extension", _EXTENSIONS[kind]
        elif kind in _SIZED:
            family, form = _SIZED[kind]
            size = self.number(form)
        else:
            raise ValueError(f"byte {self.at - 1:,} is {kind:#x}, which is not msgpack")
        return self.sized(family, size, depth + 1)

    def sized(self, family: str, size: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError(f"at byte {self.at:,} it nests deeper than {_MAX_DEPTH} levels")
        match family:
            case "text":
                return self.raw(size).decode()
            case "bytes":
                return self.skip(size)
            case "array":
                return [self.value(depth) for _ in range(size)]
            case "map":
                return keyed((self.value(depth), self.value(depth)) for _ in range(size))
            case _:
                return self.extension(size, depth)

    def extension(self, size: int, depth: int) -> Any:
        code = self.number("b")
        begin, end = self.skip(size)
        inner = _Reader(self.data, begin, end)
        if code not in (ARRAY, COMPLEX, SCALAR):
            raise ValueError(f"byte {begin:,} begins an extension {code}, which flax has not")
        value = inner.value(depth)
        if inner.at != end:
            raise ValueError(f"the extension at byte {begin:,} is longer than its value")
        if code != COMPLEX:
            return _Array(code == SCALAR, value)
        match value:
            case [float(real), float(imaginary)]:
                return complex(real, imaginary)
        raise ValueError(f"the complex number at byte {begin:,} is malformed")


_NUMBERS = {0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"}
_NUMBERS |= {0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_SIZED = {0xC4: ("bytes", "B"), 0xC5: ("bytes", "H"), 0xC6: ("bytes", "I")}
_SIZED |= {0xC7: ("extension", "B"), 0xC8: ("extension", "H"), 0xC9: ("extension", "I")}
_SIZED |= {0xD9: ("text", "B"), 0xDA: ("text", "H"), 0xDB: ("text", "I")}
_SIZED |= {0xDC: ("array", "H"), 0xDD: ("array", "I"), 0xDE: ("map", "H"), 0xDF: ("map", "I")}


def _opened(path: Path, name: str, value: Any) -> Any:
    if isinstance(value, _Bytes):
        return f"<{value.end - value.begin:,} bytes>"
    try:
        if isinstance(value, dict) and CHUNKED in value:
            return _joined(path, value)
        if isinstance(value, _Array):
            lazy = _array(path, value)
            return lazy.read().item() if value.scalar else lazy
    except ValueError as error:
        raise ValueError(f"array {name!r} cannot be read: {error}") from None
    return value


def _array(path: Path, array: _Array) -> Lazy:
    match array.description:
        case [list(sizes), str() | _Bytes() as dtype, _Bytes(begin, end)]:
            shape, stored = checked_shape(sizes), checked_dtype(dtype)
        case _:
            raise ValueError("it is not described by a shape, a dtype and bytes")
    if end - begin != prod(shape) * stored.itemsize or (array.scalar and shape):
        raise ValueError(f"{stored.name}{list(shape)} is not its {end - begin:,} bytes")
    return span(path, stored.name, shape, begin)


def _joined(path: Path, value: dict[str, Any]) -> Lazy:
    match value:
        case {"shape": dict(sizes), "chunks": dict(parts)}:
            shape = checked_shape([sizes.get(str(i)) for i in range(len(sizes))])
            chunks = [parts.get(str(i)) for i in range(len(parts))]
        case _:
            raise ValueError("it is in chunks, but has no shape or no chunks")
    lazy = [_array(path, chunk) for chunk in chunks if isinstance(chunk, _Array)]
    if not lazy or len(lazy) != len(parts):
        raise ValueError("its chunks are not arrays")
    if len({chunk.dtype for chunk in lazy}) > 1 or sum(c.size for c in lazy) != prod(shape):
        raise ValueError(f"its {len(lazy):,} chunks do not make up {list(shape)}")

    def read() -> np.ndarray:
        return np.concatenate([chunk.read().reshape(-1) for chunk in lazy]).reshape(shape)

    return Lazy(shape, lazy[0].dtype, sum(chunk.nbytes for chunk in lazy), read)
