"""Files of `torch.save`, read without PyTorch: zip archives since 1.6, and the form before."""

import mmap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint.formats.flattening import flatten
from wlab.checkpoint.formats.inert import Global
from wlab.checkpoint.formats.pickled_values import contents, is_dict
from wlab.checkpoint.formats.pickles import read_pickle
from wlab.checkpoint.formats.torch_values import CALLS, Bytes, Storage, opened, persistent
from wlab.checkpoint.formats.torch_zip import stored_members
from wlab.checkpoint.source import Source

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def open_torch(path: Path, *, strict: bool = True) -> Source:
    """The tensors of a `torch.save` file by path, as `state_dict.layer1.0.weight`; nothing is run.

    Containers give their keys and positions to the path. A whole module gives the names of its
    own `state_dict`. Each tensor is read alone, from its offset. The metadata has what is no
    tensor nested as in the file, and where they apply `aliases` (the name of the first tensor
    that is the same view of the same storage) and `modules` (the class of each module by path).

    Args:
        path: The file.
        strict: Refuse files whose pickle calls what does not rebuild tensors and containers;
            otherwise such a call is read as a dict of its arguments and, as `class`, what it
            would call.

    Raises:
        ValueError: If the file is not PyTorch's, is cut off or damaged, calls something else, or
            has a tensor that does not lie within its storage, naming the tensor or the call.
    """
    calls = CALLS if strict else None
    aliases: dict[str, str] = {}
    classes: dict[str, str] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[257:262] == b"ustar":
                raise ValueError("it is a tar file of PyTorch before 0.2: save it with a later one")
            root, where = (_zip if data[:2] == b"PK" else _legacy)(path, data, calls)
        arrays, rest = flatten(root, opened(where, aliases, classes), separator=".")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a file of PyTorch: {error}.") from None
    named = {"aliases": aliases, "modules": classes}
    return Source(path, "torch", arrays, rest | {k: v for k, v in named.items() if v})


def _zip(path: Path, data: mmap.mmap, calls: Collection[str] | None) -> tuple[Any, Bytes]:
    members = stored_members(path)
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"it has {len(roots)} members `data.pkl`, not one")
    root = roots[0]
    begin, size = members.get(f"{root}byteorder", (0, 0))
    order = data[begin : begin + size]
    if order not in (b"", b"little", b"big"):
        raise ValueError(f"its byte order is {order[:20]!r}")

    def offset(storage: Storage) -> int:
        nbytes = storage.root_size * np.dtype(storage.dtype).itemsize
        member = members.get(f"{root}data/{storage.key}")
        if member is None or member.size != nbytes:
            found = "missing" if member is None else f"of {member.size:,}"
            raise ValueError(f"storage {storage.key!r} of {nbytes:,} bytes is {found}")
        return member.offset

    pickle = members[f"{root}data.pkl"]
    data.seek(pickle.offset)
    end = pickle.offset + pickle.size
    value = read_pickle(data, calls=calls, persistent=persistent, end=end)
    return value, Bytes(path, ">" if order == b"big" else "<", offset)


def _legacy(path: Path, data: mmap.mmap, calls: Collection[str] | None) -> tuple[Any, Bytes]:
    """Pickles of a magic number, a protocol, the system, the value and the keys; then storages."""
    if read_pickle(data, calls=calls) != _MAGIC:
        raise ValueError("it does not begin as one; `open_pickle` reads pickles of NumPy arrays")
    protocol, system = read_pickle(data, calls=calls), read_pickle(data, calls=calls)
    if protocol != _PROTOCOL or not is_dict(system):
        raise ValueError("its header is malformed or of an unknown protocol")
    storages: dict[str, Storage] = {}

    def remember(identity: Any) -> Storage | Global:
        found = persistent(identity)
        if isinstance(found, Storage):
            first = storages.setdefault(found.key, found)
            if (first.dtype, first.root_size) != (found.dtype, found.root_size):
                raise ValueError(f"storage {found.key!r} is described in two ways")
        return found

    value = read_pickle(data, calls=calls, persistent=remember)
    offsets = _offsets(data, read_pickle(data, calls=calls), storages)

    def offset(storage: Storage) -> int:
        if storage.key not in offsets:
            raise ValueError(f"storage {storage.key!r} is missing")
        return offsets[storage.key]

    little = contents(system).get("little_endian", True)
    return value, Bytes(path, "<" if little else ">", offset)


def _offsets(data: mmap.mmap, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    if not isinstance(keys, list):
        raise ValueError("it has no list of storages")
    found: dict[str, int] = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in found:
            raise ValueError("its list of storages is not that of its tensors")
        size, at = int.from_bytes(data.read(8), "little"), data.tell()
        nbytes = size * np.dtype(storages[key].dtype).itemsize
        if size != storages[key].root_size or nbytes > len(data) - at:
            raise ValueError(
                f"storage {key!r} of {storages[key].root_size:,} elements is cut off or has "
                f"{size:,}: {len(data) - at:,} bytes are left"
            )
        data.seek(at + nbytes)
        found[key] = at
    return found
