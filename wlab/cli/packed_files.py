"""Files of packed weights: written leaf by leaf, and opened as if their leaves were dense."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source
from wlab.cli.dequantizing import dequantized


def packed(arrays: Mapping[str, Lazy], forms: Sequence[Any]) -> dict[str, Any]:
    """Each leaf in the smallest of the forms; those that are smallest dense stay where they are."""
    from wlab.pruning.packed_trees import is_sparse, smallest

    def leaf(array: Lazy) -> Any:
        found = smallest(array.read(), forms=forms)
        return found if is_sparse(found) else array

    return {name: leaf(array) for name, array in arrays.items()}


def write(target: Path, leaves: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes what `packed` gives, with its schema and those metadata that are text."""
    from wlab.checkpoint.packed import save_packed
    from wlab.pruning.packed_schema import to_arrays

    words = {key: value for key, value in metadata.items() if isinstance(value, str)}
    save_packed(target, *to_arrays(dict(leaves)), metadata=words)


def densified(source: Source) -> Source:
    """The same file with each sparse or quantized leaf as one array, made and checked when read.

    A file without a schema of packed weights is handed back as it is.

    Raises:
        ValueError: If the schema is damaged, or the file lacks an array that it needs.
    """
    from wlab.checkpoint.packed import SCHEMA, packed_schema
    from wlab.pruning.packed_schema import PARTS

    source = dequantized(source)
    schema = packed_schema(source)
    if schema is None:
        return source
    path_of = {f"{path}.{part}": path for path in schema for part in PARTS}
    names = dict.fromkeys([path_of.get(name, name) for name in source.arrays] + list(schema))
    arrays = {
        name: _dense(source, name, schema[name]) if name in schema else source.arrays[name]
        for name in names
    }
    metadata = {key: value for key, value in source.metadata.items() if key != SCHEMA}
    return replace(source, arrays=arrays, metadata=metadata)


def _dense(source: Source, path: str, fields: Any) -> Lazy:
    from wlab.pruning.packed_schema import PARTS, read_fields

    try:
        form, shape, dtype = read_fields(path, fields)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from None
    names = [path, *(f"{path}.{part}" for part in PARTS)]
    parts = {name: source.arrays[name] for name in names if name in source.arrays}
    nbytes = sum(part.nbytes for part in parts.values())
    return Lazy(shape, dtype.name, nbytes, partial(_read, parts, path, fields), str(form))


def _read(parts: Mapping[str, Lazy], path: str, fields: Any) -> np.ndarray:
    from wlab.pruning.packed import decompress
    from wlab.pruning.packed_schema import from_arrays

    arrays = {name: part.read() for name, part in parts.items()}
    return decompress(from_arrays(arrays, {path: fields})[path])
