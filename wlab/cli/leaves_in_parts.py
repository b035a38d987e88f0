"""Leaves that a file holds in parts, under a schema: each as one array, made when it is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source

ReadFields = Callable[[str, Any], tuple[Any, tuple[int, ...], Any]]
"""The form or format, the shape and the dtype that a leaf's schema states."""
Whole = Callable[[Mapping[str, np.ndarray], str, Any], np.ndarray]
"""A leaf from its parts, its path and its schema."""


def whole_leaves(
    source: Source,
    schema: Mapping[str, Any],
    *,
    parts: Sequence[str],
    read_fields: ReadFields,
    whole: Whole,
) -> Source:
    """The same file with each leaf of the schema as one array, where its first part stood.

    Raises:
        ValueError: If the schema of a leaf is damaged, naming the file.
    """
    path_of = {f"{path}.{part}": path for path in schema for part in parts}
    names = dict.fromkeys([path_of.get(name, name) for name in source.arrays] + list(schema))

    def lazy(path: str) -> Lazy:
        fields = schema[path]
        try:
            form, shape, dtype = read_fields(path, fields)
        except ValueError as error:
            raise ValueError(f"{source.path}: {error}") from None
        held = [path, *(f"{path}.{part}" for part in parts)]
        found = {name: source.arrays[name] for name in held if name in source.arrays}
        nbytes = sum(part.nbytes for part in found.values())
        read = partial(_read, found, path, fields, whole)
        return Lazy(shape, np.dtype(dtype).name, nbytes, read, str(form))

    arrays = {name: lazy(name) if name in schema else source.arrays[name] for name in names}
    return replace(source, arrays=arrays)


def _read(parts: Mapping[str, Lazy], path: str, fields: Any, whole: Whole) -> np.ndarray:
    return whole({name: part.read() for name, part in parts.items()}, path, fields)
