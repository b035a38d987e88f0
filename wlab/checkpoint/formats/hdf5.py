"""HDF5 files, as Keras writes weights: every dataset of numbers by its path."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint.formats.numbers import checked_dtype, checked_shape
from wlab.checkpoint.source import Lazy, Source
from wlab.extras import required

_FILTERS = (1, 2, 3, 4, 5, 6, 32_000)  # HDF5's own and LZF; others would load code
_MAX_DEPTH = 100
_MAX_RATIO = 1_100  # DEFLATE cannot do better


def open_hdf5(path: Path) -> Source:
    """The datasets of an HDF5 file by path, as `dense/dense/kernel:0` (extra `hdf5`).

    Those that Keras's `layer_names` and `weight_names` list come first, in that order. The
    metadata has the attributes of the root, as `keras_version` and `model_config`.

    The headers are read by the HDF5 library, which trusts files more than wlab's own readers do:
    open strangers' files in a process that may crash.

    Raises:
        ImportError: If h5py is not installed.
        ValueError: If the file is not HDF5 or is damaged, has links, datasets that lie in other
            files, or datasets of text, records or objects, or claims more than the file can hold.
    """
    h5py = required("h5py", extra="hdf5")
    size = path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            datasets = dict(_datasets(h5py, file, "", set(), 0))
            order = {name: None for name in _keras_order(file) if name in datasets} | datasets
            arrays = {name: _lazy(h5py, path, name, datasets[name], size) for name in order}
            metadata = {name: _attribute(file, name, size) for name in file.attrs}
    except Exception as error:  # the library raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read as HDF5: {error}.") from None
    return Source(path, "hdf5", arrays, metadata)


def _datasets(
    h5py: Any, group: Any, prefix: str, seen: set[Any], depth: int
) -> Iterator[tuple[str, Any]]:
    # Hard links can make a group its own descendant, or the same one at many places.
    if depth > _MAX_DEPTH or group.id in seen:
        raise ValueError(f"group {prefix!r} nests too deep or is reached a second time")
    seen.add(group.id)
    for name in group:
        path = f"{prefix}/{name}".lstrip("/")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path!r} is a link to another place or file, which is not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(h5py, item, path, seen, depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield path, item


def _lazy(h5py: Any, path: Path, name: str, dataset: Any, size: int) -> Lazy:
    if dataset.shape is None:
        raise ValueError(f"dataset {name!r} has no elements and no shape")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"dataset {name!r} lies in other files, which are not opened")
    try:
        dtype, shape = checked_dtype(dataset.dtype.name), checked_shape(dataset.shape)
    except ValueError as error:
        raise ValueError(f"dataset {name!r} cannot be read: {error}") from None
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if not set(filters) <= set(_FILTERS):
        raise ValueError(f"dataset {name!r} is encoded with a filter that is not HDF5's own")
    nbytes, stored = dtype.itemsize * dataset.size, dataset.id.get_storage_size()
    limit = max(size, min(stored, size) * _MAX_RATIO) if filters else size
    if nbytes > limit:
        raise ValueError(
            f"dataset {name!r} claims {nbytes:,} bytes, of which {stored:,} are stored"
        )

    def read() -> np.ndarray:
        try:
            with h5py.File(path, "r") as file:
                found = file[name]
                if (found.shape, found.dtype.name) != (shape, dtype.name):
                    raise OSError("it has changed since it was opened")
                return np.asarray(found[()]).astype(dtype, copy=False)
        except Exception as error:  # the library raises many kinds for a broken file
            raise ValueError(f"{path}: dataset {name!r} cannot be read: {error}.") from None

    return Lazy(shape, dtype.name, stored, read)


def _keras_order(file: Any) -> Iterator[str]:
    """Paths as Keras lists them; it splits long lists over `layer_names0`, `layer_names1`, …"""
    prefix = "model_weights/" if "model_weights" in file else ""
    root = file["model_weights"] if prefix else file
    for layer in _names(root, "layer_names"):
        if layer in root:
            for weight in _names(root[layer], "weight_names"):
                yield f"{prefix}{layer}/{weight}"


def _names(group: Any, key: str) -> list[str]:
    parts = [key] if key in group.attrs else []
    parts += [f"{key}{i}" for i in range(len(group.attrs)) if f"{key}{i}" in group.attrs]
    found = [_attribute(group, part, group.file.id.get_filesize()) for part in parts]
    return [name for names in found if isinstance(names, list) for name in map(str, names)]


def _attribute(group: Any, name: str, size: int) -> Any:
    attribute = group.attrs.get_id(name)
    if prod(attribute.shape) * attribute.dtype.itemsize > size:
        raise ValueError(f"attribute {name!r} claims more bytes than the file has")
    value = group.attrs[name]
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_text(item) for item in value]
    return _text(value)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float | bool | list) else str(value)
