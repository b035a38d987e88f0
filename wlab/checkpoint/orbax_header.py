"""The arrays of an orbax checkpoint, whoever wrote it, without JAX.

`_METADATA` (JSON) names the leaves and `_sharding` (JSON) says how they lay; shapes and
dtypes stand in each array's zarr header, which TensorStore reads out of the OCDBT database.
"""

import base64
import json
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np

Found: TypeAlias = tuple[str, str, tuple[int, ...], str | None]  # path, dtype, shape, sharding

_NAMES = "_METADATA"
_ZARR_KEYS = ("zarr.json", ".zarray")  # of zarr 3 and 2


def orbax_header(directory: Path) -> list[Found]:
    """Path, dtype, shape and sharding of each array, in the checkpoint's order.

    Typed PRNG keys are listed as the words that they are stored as.

    Raises:
        ValueError: If this is no orbax checkpoint, or an array's header is missing or damaged.
    """
    return [found for tree in _trees(directory) for found in _tree_header(tree)]


def _tree_header(tree: Path) -> list[Found]:
    names, shardings = _names(tree), _shardings(tree)
    files = _files(tree, [f"{name}/{key}" for name in names.values() for key in _ZARR_KEYS])
    found = []
    for path, name in names.items():
        header = next((files[at] for k in _ZARR_KEYS if (at := f"{name}/{k}") in files), b"null")
        found.append((path, *_zarr(tree, path, header), shardings.get(name)))
    return found


def _trees(directory: Path) -> list[Path]:
    """The directories that hold a tree: the checkpoint itself, or its items."""
    candidates = [directory, *sorted(p for p in directory.iterdir() if p.is_dir())]
    trees = [path for path in candidates if (path / _NAMES).exists()]
    if not trees:
        raise ValueError(f"{directory} is not an orbax checkpoint: no {_NAMES} in it.")
    return trees


def _names(tree: Path) -> dict[str, str]:
    """Our path and orbax's name of every leaf that is an array."""
    metadata = _json(tree / _NAMES)
    names = {}
    try:
        for leaf in metadata["tree_metadata"].values():
            keys = [str(key["key"]) for key in leaf["key_metadata"]]
            value = leaf["value_metadata"]
            if not value.get("skip_deserialize") and value.get("value_type") != "string":
                names["/".join(keys)] = ".".join(keys)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{tree / _NAMES} is malformed: {error!r}.") from None
    return names


def _shardings(tree: Path) -> dict[str, str]:
    if not (tree / "_sharding").exists():
        return {}
    try:
        return {
            base64.b64decode(name).decode(): spec
            for name, text in _json(tree / "_sharding").items()
            if (spec := _sharding(json.loads(text))) is not None
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{tree / '_sharding'} is malformed: {error!r}.") from None


def _sharding(fields: Any) -> str | None:
    """As `data=4,model=2: (data, -)`."""
    if fields.get("sharding_type") != "NamedSharding":
        return None
    sizes = zip(fields["axis_names"], fields["shape"], strict=True)
    mesh = ",".join(f"{name}={size}" for name, size in sizes)
    parts = ("+".join(p) if isinstance(p, list) else p or "-" for p in fields["partition_spec"])
    return f"{mesh}: ({', '.join(parts)})"


def _files(tree: Path, keys: list[str]) -> dict[str, bytes]:
    """The files of these names that are in the checkpoint's key-value store."""
    if not (tree / "manifest.ocdbt").exists():
        return {key: (tree / key).read_bytes() for key in keys if (tree / key).is_file()}
    import tensorstore

    spec = {"driver": "ocdbt", "base": f"file://{tree.absolute()}/"}
    try:
        store = tensorstore.KvStore.open(spec).result()
        reads = {key: store.read(key) for key in keys}  # all at once: 40 times as fast
        found = {key: read.result() for key, read in reads.items()}
    except ValueError as error:
        raise ValueError(f"{tree}: the database is damaged: {error}.") from None
    return {key: result.value for key, result in found.items() if result.state == "value"}


def _zarr(tree: Path, path: str, header: bytes) -> tuple[str, tuple[int, ...]]:
    try:
        fields = json.loads(header)
        dtype = fields.get("data_type") or fields["dtype"]
        return _dtype_name(dtype), tuple(map(int, fields["shape"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{tree}: array {path!r} has no readable header: {error!r}.") from None


def _dtype_name(dtype: str) -> str:
    """Zarr 2 spells `<f4`, zarr 3 `float32`; both spell `bfloat16`, and both know an int4."""
    try:
        return np.dtype(dtype).name
    except TypeError:
        return dtype


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
