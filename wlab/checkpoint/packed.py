"""Packed weights in one safetensors file: arrays, and the schema that says how to read them.

What the schema means is not known here: it is plain JSON from whoever packed the weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint.formats.safetensors import open_safetensors
from wlab.checkpoint.safetensors_io import save_safetensors
from wlab.checkpoint.source import Source
from wlab.checkpoint.steps import PathLike

SCHEMA = "wlab.packed"  # the key of the file's metadata


def save_packed(
    path: PathLike,
    arrays: Mapping[str, Any],
    schema: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays with their schema; the file takes its name only when it is complete.

    Args:
        path: The file, by custom ending in `.safetensors`.
        arrays: By name.
        schema: Plain JSON, such as `wlab.pruning.to_arrays` gives.
        metadata: Further text to save beside them.

    Raises:
        TypeError: If the schema is not plain JSON.
        ValueError: If an array's dtype has no place in the format (int4, PRNG keys).
    """
    try:
        text = json.dumps(dict(schema))
    except (TypeError, ValueError) as error:
        raise TypeError(f"save_packed: the schema is not plain JSON: {error}.") from None
    save_safetensors(path, dict(arrays), metadata={**(metadata or {}), SCHEMA: text})


def load_packed(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the schema that `save_packed` wrote.

    Raises:
        ValueError: If the file is damaged, or has no schema.
    """
    source = open_safetensors(Path(path))
    schema = packed_schema(source)
    if schema is None:
        raise ValueError(f"{path} has no schema of packed weights: read it by `load_safetensors`.")
    return {name: array.read() for name, array in source.arrays.items()}, schema


def packed_schema(source: Source) -> dict[str, Any] | None:
    """The schema of an opened file; None if its arrays are what they seem.

    Raises:
        ValueError: If it is not a JSON object.
    """
    text = source.metadata.get(SCHEMA)
    if text is None:
        return None
    try:
        schema = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{source.path}: {SCHEMA} is not JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{source.path}: {SCHEMA} is a {type(schema).__name__}, not an object.")
    return schema
