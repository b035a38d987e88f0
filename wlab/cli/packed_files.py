"""Files of packed weights: written leaf by leaf, and opened as if their leaves were dense."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source, open_source
from wlab.cli.dequantizing import dequantized
from wlab.cli.leaves_in_parts import whole_leaves


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


def opened(path: Path) -> Source:
    """The weights in a file of any format wlab reads, or in a folder of the hub, as if dense."""
    from wlab.pretrained.networks.hub import weights_of

    return densified(weights_of(path) if path.is_dir() else open_source(path))


def densified(source: Source) -> Source:
    """The same file with each sparse or quantized leaf as one array, made and checked when read.

    A file without a schema of packed weights is handed back as it is.

    Raises:
        ValueError: If the schema is damaged, or the file lacks an array that it needs.
    """
    from wlab.checkpoint.packed import SCHEMA, packed_schema
    from wlab.pruning.packed_schema import PARTS, read_fields

    source = dequantized(source)
    schema = packed_schema(source)
    if schema is None:
        return source
    dense = whole_leaves(source, schema, parts=PARTS, read_fields=read_fields, whole=_dense)
    metadata = {key: value for key, value in source.metadata.items() if key != SCHEMA}
    return replace(dense, metadata=metadata)


def _dense(arrays: Mapping[str, np.ndarray], path: str, fields: Any) -> np.ndarray:
    from wlab.pruning.packed import decompress
    from wlab.pruning.packed_schema import from_arrays

    return decompress(from_arrays(arrays, {path: fields})[path])
