"""Files of quantized leaves: opened as they are served, each leaf dequantized when it is read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source, open_source
from wlab.cli import quantized_hub


def opened(path: Path) -> Source:
    """The plain weights of a file that is to be quantized, or of a folder of the hub.

    Raises:
        ValueError: If its weights are quantized already.
    """
    from wlab.cli import weight_files

    schema = _schema(_open(path))
    if schema or (path.is_dir() and quantized_hub.is_quantized(path)):
        shown = f", {next(iter(schema))!r} and {len(schema) - 1} more leaves" if schema else ""
        raise ValueError(
            f"{path} is quantized already{shown}: quantize what it was made of, or errors add up."
        )
    return weight_files.opened(path)


def served(path: Path) -> Source:
    """A file or folder, its quantized leaves as the arrays that their codes stand for.

    Raises:
        ValueError: If the schema is damaged, or the file lacks an array that it needs.
    """
    from wlab.cli.packed_files import densified

    if path.is_dir() and quantized_hub.is_quantized(path):
        return quantized_hub.opened(path)
    return densified(dequantized(_open(path)))


def dequantized(source: Source) -> Source:
    """The same file with each quantized leaf as one array, checked and dequantized when it is read.

    Raises:
        ValueError: As `served`.
    """
    from wlab.checkpoint.packed import SCHEMA, packed_schema
    from wlab.quantization.files import PARTS

    schema = _schema(source)
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


def _open(path: Path) -> Source:
    from wlab.pretrained.networks.hub import weights_of

    return weights_of(path) if path.is_dir() else open_source(path)


def _schema(source: Source) -> dict[str, Any]:
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
