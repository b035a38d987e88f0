"""A file with quantized leaves, as if they were plain: each is dequantized when it is read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from wlab.checkpoint import Source
from wlab.cli.leaves_in_parts import whole_leaves


def dequantized(source: Source) -> Source:
    """The same file with each quantized leaf as one array, checked and dequantized when it is read.

    Raises:
        ValueError: If the schema is damaged, or the file lacks an array that it needs.
    """
    from wlab.checkpoint.packed import SCHEMA, packed_schema
    from wlab.quantization.files import PARTS, read_fields

    schema = quantized_schema(source)
    if not schema:
        return source
    plain = whole_leaves(source, schema, parts=PARTS, read_fields=read_fields, whole=_dequantized)
    others = {k: v for k, v in (packed_schema(source) or {}).items() if k not in schema}
    metadata = {key: value for key, value in source.metadata.items() if key != SCHEMA}
    metadata |= {SCHEMA: json.dumps(others)} if others else {}
    return replace(plain, metadata=metadata)


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


def _dequantized(arrays: Mapping[str, np.ndarray], path: str, fields: Any) -> np.ndarray:
    import jax

    from wlab.quantization import dequantize
    from wlab.quantization.files import from_arrays

    return np.asarray(jax.jit(dequantize)(from_arrays(arrays, {path: fields})[path]))
