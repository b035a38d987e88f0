"""npz files, opened: each member is decompressed when it is read."""

from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from wlab.checkpoint.npz_header import npz_header
from wlab.checkpoint.source import Lazy, Source


def open_npz(path: Path) -> Source:
    """An npz file, opened.

    Raises:
        ValueError: If the file is no npz, is damaged, or holds Python objects.
    """
    arrays = {
        name: Lazy(
            shape, dtype, prod(shape) * np.dtype(dtype).itemsize, partial(_read, path, name, dtype)
        )
        for name, (dtype, shape) in npz_header(path).items()
    }
    return Source(path, "npz", arrays)


def _read(path: Path, name: str, dtype: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[name].view(dtype)
