"""The array headers of an npz file; the arrays themselves stay compressed.

NumPy knows no bfloat16 or float8: their bits stand as unsigned integers, and the member
`__dtypes__` (JSON in one string) says what they are.
"""

import json
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np

DTYPES = "__dtypes__"
_MAX_HEADER = 10_000  # characters; an honest one has about a hundred


def npz_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of each array, by path.

    Raises:
        ValueError: If the file is not npz or is truncated, or if a member is not an array
            of numbers of the size that its header claims.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                member.filename.removesuffix(".npy"): _member(path, archive, member)
                for member in archive.infolist()
            }
            named = _dtypes(path, archive, found) if DTYPES in found else {}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is not an npz file or is truncated: {error}.") from None
    found.pop(DTYPES, None)
    return {name: (named.get(name, dtype), shape) for name, (dtype, shape) in found.items()}


def _member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[str, tuple[int, ...]]:
    with archive.open(member) as file:
        try:
            shape, dtype = _array_header(file)
            length = file.tell()
        except (ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: {member.filename!r} is not an array: {error}.") from None
    if dtype.hasobject:
        raise ValueError(f"{path}: {member.filename!r} holds Python objects, which are not read.")
    if min(shape, default=0) < 0 or length + prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(
            f"{path}: {member.filename!r} claims {dtype}{list(shape)}, "
            f"but has {member.file_size - length:,} bytes."
        )
    return dtype.name, shape


def _array_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown version {version}")
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read(file, max_header_size=_MAX_HEADER)
    return shape, dtype


def _dtypes(
    path: Path, archive: zipfile.ZipFile, found: dict[str, tuple[str, tuple[int, ...]]]
) -> dict[str, str]:
    try:
        with archive.open(f"{DTYPES}.npy") as file:
            named = dict(json.loads(str(np.lib.format.read_array(file, allow_pickle=False))))
        same = [np.dtype(named[n]).itemsize == np.dtype(found[n][0]).itemsize for n in named]
    except (ValueError, TypeError, KeyError):
        named, same = {}, [False]
    if not all(same):
        raise ValueError(f"{path}: {DTYPES!r} does not describe the arrays.")
    return named
