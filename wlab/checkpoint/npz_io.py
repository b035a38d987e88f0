"""npz in and out, for plain trees of arrays; the extra dtypes of `npz_header` survive."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.nested import fill
from wlab.checkpoint.npz_header import DTYPES, npz_header
from wlab.checkpoint.source import dtype_of
from wlab.checkpoint.steps import PathLike
from wlab.tree import leaves


def save_npz(path: PathLike, tree: Any, *, compressed: bool = False) -> None:
    """Writes every leaf under its path; the file takes its name only when it is complete.

    Leaves are arrays or `Lazy` ones, which are read one at a time.

    Raises:
        ValueError: If a leaf's dtype has no place in the format (int4, PRNG keys).
    """
    named = leaves(tree)
    dtypes = {name: _dtype(name, leaf) for name, leaf in named.items()}
    others = {name: dtype for name, dtype in dtypes.items() if np.dtype(dtype).kind == "V"}
    extra = {DTYPES: np.array(json.dumps(others))} if others else {}
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with written_whole(path) as file, zipfile.ZipFile(file, "w", kind) as archive:
        for name, leaf in (named | extra).items():
            array = np.asarray(leaf)
            if array.dtype.kind == "V":
                array = array.view(f"uint{8 * array.itemsize}")
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


def _dtype(name: str, leaf: Any) -> str:
    dtype = dtype_of(leaf)
    if dtype.startswith(("int4", "uint4", "int2", "uint2", "key<")):
        raise ValueError(
            f"save_npz: leaf {name!r} is {dtype}, which the format lacks. Pack int4 into uint8; "
            "store a key as jax.random.key_data."
        )
    return dtype
