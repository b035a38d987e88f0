"""A file of arrays, opened: what is in it by name, each array where it lies until it is read.

A format is a function `open_x(path) -> Source` that has believed nothing: every size and offset
has been held against the file before anything of that size is allocated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np

from wlab.checkpoint.aligned import aligned_empty


@dataclass(frozen=True)
class Lazy:
    """An array that stays in its file.

    Attributes:
        shape: Of what `read` gives.
        dtype: Of what `read` gives, a NumPy or ml_dtypes name.
        nbytes: Bytes in the file.
        read: Reads it into memory of its own; nothing is kept.
        encoding: What the file calls its elements where they are not plain numbers of `dtype`,
            as `Q4_1`.
        blocks: The encoded bytes as uint8, one row for each row of the array; None for plain
            numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    read: Callable[[], np.ndarray]
    encoding: str | None = None
    blocks: Callable[[], np.ndarray] | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def plain(self, floats: Any = None) -> "Lazy":
        """As plain numbers; those that are floats as another dtype, if one is given."""
        name = np.dtype(self.dtype if floats is None or "float" not in self.dtype else floats).name
        nbytes = self.size * np.dtype(name).itemsize
        return Lazy(self.shape, name, nbytes, lambda: self.read().astype(name, copy=False))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """What `np.asarray` asks for: the array, read."""
        del copy
        return self.read().astype(dtype or self.dtype, copy=False)


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Attributes:
        path: The file, or the first of its shards.
        format: As `safetensors`.
        arrays: By the name that the file gives them, in its order.
        metadata: What else it says: text, hyper-parameters, vocabularies.
    """

    path: Path
    format: str
    arrays: Mapping[str, Lazy]
    metadata: Mapping[str, Any] = field(default_factory=dict)


def span(path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> Lazy:
    """Plain little-endian numbers at `offset` bytes, which the caller has checked to be there."""
    size = prod(shape) * np.dtype(dtype).itemsize
    return Lazy(shape, dtype, size, partial(_numbers_at, path, dtype, shape, offset))


def _numbers_at(path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    stored = np.dtype(dtype).newbyteorder("<")
    array = aligned_empty(shape, stored)
    with path.open("rb") as file:
        file.seek(offset)
        read = file.readinto(array.reshape(-1).view(np.uint8).data)
    if read != array.nbytes:
        raise ValueError(f"{path} has become shorter since it was opened.")
    return array.astype(dtype, copy=False)


def dtype_of(leaf: Any) -> str:
    """The name of the dtype of an array or a `Lazy` one."""
    return leaf.dtype if isinstance(leaf, Lazy) else leaf.dtype.name
