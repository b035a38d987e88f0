"""Writing what `flax.serialization.msgpack_restore` reads, one array at a time."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.formats.flax_msgpack import ARRAY, CHUNKED
from wlab.checkpoint.formats.numbers import checked_dtype
from wlab.checkpoint.nested import nest
from wlab.checkpoint.source import dtype_of
from wlab.checkpoint.steps import PathLike
from wlab.tree import leaves

_CHUNK = 2**30  # bytes, as flax does


def save_msgpack(path: PathLike, tree: Any) -> None:
    """Writes every array in nested maps, as `flax.serialization.to_bytes` does for a dict of them.

    Sequences become maps keyed `0`, `1`, …; holes and empty containers are left out. The file
    takes its name only when it is complete.

    Args:
        path: The file, by custom ending in `.msgpack`.
        tree: A pytree of arrays; `Lazy` ones are read one at a time.

    Raises:
        ValueError: If a leaf's dtype is not one of numbers (PRNG keys), naming it.
    """
    named = leaves(tree)
    for name, leaf in named.items():
        try:
            checked_dtype(dtype_of(leaf))
        except ValueError as error:
            raise ValueError(f"save_msgpack: leaf {name!r} cannot be written: {error}.") from None
    with written_whole(Path(path)) as file:
        _write(file, nest(named))


def _write(file: BinaryIO, value: Any) -> None:
    if isinstance(value, dict):
        file.write(_map(len(value)))
        for key, child in value.items():
            file.write(_text(key))
            _write(file, child)
        return
    array = np.asarray(value)
    array = np.asarray(array.astype(array.dtype.newbyteorder("<"), copy=False), order="C")
    if array.nbytes <= _CHUNK:
        _write_array(file, array)
        return
    step = max(1, _CHUNK // array.itemsize)
    flat = array.reshape(-1)
    starts = range(0, flat.size, step)
    file.write(_map(3) + _text(CHUNKED) + b"\xc3" + _text("shape") + _map(array.ndim))
    file.write(b"".join(_text(str(i)) + _whole(n) for i, n in enumerate(array.shape)))
    file.write(_text("chunks") + _map(len(starts)))
    for i, start in enumerate(starts):
        file.write(_text(str(i)))
        _write_array(file, flat[start : start + step])


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    shape = struct.pack(">BH", 0xDC, array.ndim) + b"".join(map(_whole, array.shape))
    head = b"\x93" + shape + _text(array.dtype.name) + struct.pack(">BI", 0xC6, array.nbytes)
    file.write(struct.pack(">BIb", 0xC9, len(head) + array.nbytes, ARRAY) + head)
    file.write(array.reshape(-1).view(np.uint8).data)


def _map(size: int) -> bytes:
    return struct.pack(">BI", 0xDF, size)


def _whole(number: int) -> bytes:
    return struct.pack(">BQ", 0xCF, number)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">BI", 0xDB, len(raw)) + raw
