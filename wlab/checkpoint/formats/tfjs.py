"""TensorFlow.js models: a `model.json` and the binary shards that it names.

Each group of the manifest is a run of shards joined end to end, in which its weights stand end
to end; a weight may cross from one shard into the next. A quantized weight is q·scale + min.

Reference: TensorFlow.js, `tfjs-core/src/io/io_utils.ts` (`decodeWeights`).
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from wlab.checkpoint.formats.json_text import json_object
from wlab.checkpoint.formats.shapes import can_be_held
from wlab.checkpoint.formats.shards import shard
from wlab.checkpoint.source import Lazy, Source, span

_STORED = {  # by what a weight is read as, and how it is quantized
    ("float32", None): "<f4",
    ("float16", None): "<f2",
    ("int32", None): "<i4",
    ("uint8", None): "u1",
    ("bool", None): "u1",
    ("float32", "uint8"): "u1",
    ("float32", "uint16"): "<u2",
    ("float32", "float16"): "<f2",
    ("int32", "uint8"): "u1",
    ("int32", "uint16"): "<u2",
}


class _Piece(NamedTuple):
    """Bytes of one shard."""

    path: Path
    begin: int
    nbytes: int


class _Weight(NamedTuple):
    """How a weight is stored, and as what it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: np.dtype
    encoding: str | None
    scale: float
    min: float

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.stored.itemsize


def open_tfjs(path: Path) -> Source:
    """A TensorFlow.js layers or graph model, opened by its `model.json`.

    Quantized weights are read as the dtype that they were made from; `blocks` gives their codes.
    Everything else that the file says is metadata, as `modelTopology`, and under `quantization`
    stand the scale and min of each quantized weight.

    Raises:
        ValueError: If the manifest is damaged, names a shard out of its folder, twice, or one
            that is missing, or if the shards do not hold just the weights of their group.
    """
    fields = json_object(path)
    manifest = fields.pop("weightsManifest", None)
    if not isinstance(manifest, list):
        raise ValueError(f"{path} is not a TensorFlow.js model: it has no `weightsManifest`.")
    arrays: dict[str, Lazy] = {}
    quantization: dict[str, dict[str, float]] = {}
    for shards, weights in _groups(path, manifest):
        at = 0
        for weight in weights:
            if weight.name in arrays:
                raise ValueError(f"{path}: weight {weight.name!r} occurs twice.")
            arrays[weight.name] = _lazy(weight, _cut(shards, at, weight.nbytes))
            at += weight.nbytes
            if weight.encoding in ("uint8", "uint16"):
                quantization[weight.name] = {"scale": weight.scale, "min": weight.min}
    return Source(path, "tfjs", arrays, fields | {"quantization": quantization})


def _groups(path: Path, manifest: list[Any]) -> Iterator[tuple[list[_Piece], list[_Weight]]]:
    seen: set[Path] = set()
    for group in manifest:
        if not (
            isinstance(group, dict)
            and isinstance(names := group.get("paths"), list)
            and isinstance(entries := group.get("weights"), list)
        ):
            raise ValueError(f"{path}: a group of the manifest lacks its `paths` or `weights`.")
        files = [shard(path, name) for name in names]
        for file in files:
            if file.resolve() in seen:
                raise ValueError(f"{path}: shard {file.name!r} is named twice.")
            seen.add(file.resolve())
        shards = [_Piece(file, 0, file.stat().st_size) for file in files]
        weights = [_weight(path, entry) for entry in entries]
        wanted, held = sum(w.nbytes for w in weights), sum(s.nbytes for s in shards)
        if wanted != held:
            raise ValueError(
                f"{path}: the weights of a group take {wanted:,} bytes, its {len(shards)} shards "
                f"from {str(names[:1])[1:-1]} on have {held:,}."
            )
        yield shards, weights


def _weight(path: Path, entry: Any) -> _Weight:
    scale, least = 1.0, 0.0
    try:
        name, shape, dtype = entry["name"], tuple(entry["shape"]), entry["dtype"]
        quantization = entry.get("quantization")
        encoding = None if quantization is None else quantization["dtype"]
        stored = np.dtype(_STORED[dtype, encoding])
        if not isinstance(name, str):
            raise TypeError("a name that is no text")
        if quantization is not None and encoding != "float16":
            scale, least = float(quantization["scale"]), float(quantization["min"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ValueError(
            f"{path}: a weight is malformed or of a dtype that is not read: {str(entry)[:200]}."
        ) from None
    if not all(type(n) is int and n >= 0 for n in shape) or not can_be_held(shape):
        raise ValueError(f"{path}: weight {name!r} has the shape {str(list(shape))[:200]}.")
    return _Weight(name, shape, dtype, stored, encoding, scale, least)


def _cut(shards: list[_Piece], begin: int, count: int) -> list[_Piece]:
    """The pieces of the joined shards that hold `count` bytes from `begin` on."""
    found, start = [], 0
    for piece in shards:
        low, high = max(begin, start), min(begin + count, start + piece.nbytes)
        if low < high:
            found.append(_Piece(piece.path, low - start, high - low))
        start += piece.nbytes
    return found


def _lazy(weight: _Weight, pieces: list[_Piece]) -> Lazy:
    def codes() -> Shaped[np.ndarray, "n"]:
        parts = [span(p.path, "uint8", (p.nbytes,), p.begin).read() for p in pieces]
        return np.concatenate([np.empty(0, np.uint8), *parts]).view(weight.stored)

    def read() -> Shaped[np.ndarray, "..."]:
        return _decoded(codes(), weight).reshape(weight.shape)

    def blocks() -> UInt8[np.ndarray, "rows bytes"]:
        rows, width = prod(weight.shape[:-1]), weight.shape[-1] if weight.shape else 1
        return codes().view(np.uint8).reshape(rows, width * weight.stored.itemsize)

    lazy = Lazy(weight.shape, weight.dtype, weight.nbytes, read)
    if weight.encoding is None:
        return lazy
    return replace(lazy, encoding=weight.encoding, blocks=blocks)


def _decoded(codes: Shaped[np.ndarray, "n"], weight: _Weight) -> Shaped[np.ndarray, "n"]:
    if weight.dtype == "bool":
        return codes != 0
    if weight.encoding not in ("uint8", "uint16"):
        return codes.astype(weight.dtype, copy=False)
    # As JavaScript does: q·scale + min in float64, rounded once. A table has all that q can be.
    with np.errstate(all="ignore"):
        levels = np.arange(2 ** (8 * codes.itemsize)) * weight.scale + weight.min
        if weight.dtype == "int32":
            levels = np.floor(levels + 0.5)
        return levels.astype(weight.dtype)[codes]
