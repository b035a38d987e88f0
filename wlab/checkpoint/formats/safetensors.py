"""safetensors, in one file or in the shards of a Hugging Face index."""

from pathlib import Path
from typing import Any

from wlab.checkpoint.formats.json_text import json_object
from wlab.checkpoint.formats.shapes import can_be_held
from wlab.checkpoint.formats.shards import shard
from wlab.checkpoint.safetensors_header import safetensors_header
from wlab.checkpoint.source import Lazy, Source, span


def open_safetensors(path: Path) -> Source:
    """A safetensors file, opened.

    Raises:
        ValueError: If the file is not safetensors, is truncated, or its header does not
            describe it.
    """
    contents = safetensors_header(path)
    if not isinstance(contents.metadata, dict):
        raise ValueError(f"{path}: __metadata__ is not an object.")
    for name, tensor in contents.tensors.items():
        if not can_be_held(tensor.shape):
            shape = str(list(tensor.shape))[:200]
            raise ValueError(f"{path}: array {name!r} has the shape {shape}.")
    arrays = {name: span(path, t.dtype, t.shape, t.begin) for name, t in contents.tensors.items()}
    return Source(path, "safetensors", arrays, contents.metadata)


def open_safetensors_index(path: Path) -> Source:
    """The shards of a `*.safetensors.index.json`, opened as one.

    A shard may be a symbolic link, as all are in the cache of Hugging Face's hub.

    Raises:
        ValueError: If the index is damaged, names a file out of its folder or one that is
            missing, or if it and its shards do not list the same arrays.
    """
    fields = json_object(path)
    names = fields.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise ValueError(f"{path}: `weight_map` does not map names to files.")
    shards = {
        file: open_safetensors(shard(path, file, links=True)).arrays
        for file in dict.fromkeys(names.values())
    }
    for file, arrays in shards.items():
        for name in arrays:
            if names.get(name) != file:
                raise ValueError(f"{path}: array {name!r} is in {file!r}, where it is not listed.")
    metadata = fields.get("metadata", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: `metadata` is not an object.")
    arrays = {name: _listed(path, name, file, shards) for name, file in names.items()}
    return Source(path, "safetensors", arrays, metadata)


def _listed(path: Path, name: str, file: str, shards: dict[str, Any]) -> Lazy:
    if name not in shards[file]:
        raise ValueError(f"{path}: array {name!r} is listed in {file!r}, but is not there.")
    return shards[file][name]
