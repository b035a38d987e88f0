"""npz in and out, for plain trees of arrays; the extra dtypes of `npz_header` survive."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.nested import fill
from wlab.checkpoint.npz_header import DTYPES, npz_header
from wlab.checkpoint.steps import PathLike
from wlab.tree import leaves


def save_npz(path: PathLike, tree: Any, *, compressed: bool = False) -> None:
    """Writes every leaf under its path; the file takes its name only when it is complete.

    Raises:
        ValueError: If a leaf's dtype has no place in the format (int4, PRNG keys).
    """
    named = leaves(tree)
    arrays = {name: _native(name, leaf) for name, leaf in named.items()}
    others = {n: x.dtype.name for n, x in named.items() if x.dtype.name != arrays[n].dtype.name}
    if others:
        arrays[DTYPES] = np.array(json.dumps(others))
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with written_whole(path) as file, zipfile.ZipFile(file, "w", kind) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_npz(path: PathLike, like: Any = None) -> Any:
    """The arrays as NumPy, nested by path, or in the structure of `like`.

    Raises:
        ValueError: If the file is damaged, or does not fit `like`, naming the leaf.
    """
    header = npz_header(Path(path))
    with np.load(path, allow_pickle=False) as file:
        flat = {name: file[name].view(dtype) for name, (dtype, _) in header.items()}
    return fill(like, flat, source=str(path))


def _native(name: str, leaf: Any) -> np.ndarray:
    dtype = leaf.dtype.name
    if dtype.startswith(("int4", "uint4", "int2", "uint2", "key<")):
        raise ValueError(
            f"save_npz: leaf {name!r} is {dtype}, which the format lacks. Pack int4 into uint8; "
            "store a key as jax.random.key_data."
        )
    array = np.asarray(leaf)
    return array.view(f"uint{8 * array.itemsize}") if array.dtype.kind == "V" else array
