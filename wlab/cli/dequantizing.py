"""A file with quantized leaves, as if they were plain: each is dequantized when it is read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source


def dequantized(source: Source) -> Source:
    """The same file with each quantized leaf as one array, checked and dequantized when it is read.

    Raises:
        ValueError: If the schema is damaged, or the file lacks an array that it needs.
    """
    from wlab.checkpoint.packed import SCHEMA, packed_schema
    from wlab.quantization.files import PARTS

    schema = quantized_schema(source)
    if not schema:
        return source
    path_of = {f"{path}.{part}": path for path in schema for part in PARTS}
    names = dict.fromkeys([path_of.get(name, name) for name in source.arrays] + list(schema))
    arrays = {
        name: _dense(source, name, schema[name]) if name in schema else source.arrays[name]
        for name in names
    }
    others = {k: v for k, v in (packed_schema(source) or {}).items() if k not in schema}
    metadata = {key: value for key, value in source.metadata.items() if key != SCHEMA}
    metadata |= {SCHEMA: json.dumps(others)} if others else {}
    return replace(source, arrays=arrays, metadata=metadata)


def quantized_schema(source: Source) -> dict[str, Any]:
    """What the file says of quantized leaves; leaves of other forms are not here."""
    from wlab.checkpoint.packed import packed_schema
    from wlab.quantization.files import FORM

    schema = packed_schema(source) or {}
    return {
        path: fields
        for path, fields in schema.items()
        if isinstance(fields, Mapping) and fields.get("form") == FORM
    }


def _dense(source: Source, path: str, fields: Any) -> Lazy:
    from wlab.quantization.files import PARTS, read_fields

    try:
        format, shape, dtype = read_fields(path, fields)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from None
    names = [path, *(f"{path}.{part}" for part in PARTS)]
    parts = {name: source.arrays[name] for name in names if name in source.arrays}
    nbytes = sum(part.nbytes for part in parts.values())
    return Lazy(shape, dtype, nbytes, partial(_read, parts, path, fields), str(format))


def _read(parts: Mapping[str, Lazy], path: str, fields: Any) -> np.ndarray:
    import jax

    from wlab.quantization import dequantize
    from wlab.quantization.files import from_arrays

    arrays = {name: part.read() for name, part in parts.items()}
    return np.asarray(jax.jit(dequantize)(from_arrays(arrays, {path: fields})[path]))
