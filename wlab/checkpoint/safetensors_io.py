"""safetensors in and out, for plain trees of arrays."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.nested import fill
from wlab.checkpoint.safetensors_header import DTYPES, safetensors_header
from wlab.checkpoint.source import dtype_of
from wlab.checkpoint.steps import PathLike
from wlab.tree import leaves

_CODES = {name: code for code, name in DTYPES.items()}
_ALIGNMENT = 8


def save_safetensors(path: PathLike, tree: Any, *, metadata: dict[str, str] | None = None) -> None:
    """Writes every leaf under its path; the tree is left as it is.

    The file takes its name only when it is complete.

    Args:
        path: The file, by custom ending in `.safetensors`.
        tree: A pytree of arrays; `Lazy` ones are read one at a time.
        metadata: Text to save beside them.

    Raises:
        ValueError: If a leaf's dtype has no place in the format (int4, PRNG keys).
    """
    named = leaves(tree)
    fields: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, leaf in named.items():
        size = leaf.size * np.dtype(_dtype(name, leaf)).itemsize
        code = _CODES[_dtype(name, leaf)]
        fields[name] = {"dtype": code, "shape": [*leaf.shape], "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    with written_whole(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for leaf in named.values():
            array = np.asarray(leaf)
            file.write(array.astype(array.dtype.newbyteorder("<"), order="C").tobytes())


def load_safetensors(path: PathLike, like: Any = None) -> Any:
    """The arrays as NumPy, nested by path, or in the structure of `like`.

    Raises:
        ValueError: If the file is damaged, or does not fit `like`, naming the leaf.
    """
    path = Path(path)
    flat = {
        name: np.fromfile(
            path, tensor.dtype, count=_size(tensor.shape), offset=tensor.begin
        ).reshape(tensor.shape)
        for name, tensor in safetensors_header(path).tensors.items()
    }
    return fill(like, flat, source=str(path))


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _dtype(name: str, leaf: Any) -> str:
    dtype = dtype_of(leaf)
    if dtype not in _CODES:
        raise ValueError(
            f"save_safetensors: leaf {name!r} is {dtype}, which the format lacks. Pack int4 "
            "into uint8; store a key as jax.random.key_data."
        )
    return dtype
