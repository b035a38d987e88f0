"""A pruned and quantized network as one small file: positions, codes, scales, biases, schema.

Layout: xz-compressed safetensors. A kernel `p` is `p:mask` (a bit a weight, row by row),
`p:codes` (a byte for each weight kept, in the same order) and `p:scale`; any other leaf is a
float16 array. The schema in the metadata says how to read each.
"""

import json
import lzma
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from wlab import quantization, tree
from wlab.checkpoint.atomic import written_whole
from wlab.quantization import Format, Integers, QTensor


def write_packed(path: Path, params: Any, formats: dict[str, Format]) -> int:
    """Writes the file and returns its bytes on disk.

    Args:
        path: Where to.
        params: Seen weights; those named in `formats` lie on their grids.
        formats: The format of each quantized leaf, by path.
    """
    arrays, schema = {}, {}
    for name, leaf in tree.leaves(params).items():
        if name in formats:
            q = quantization.quantize(leaf, formats[name])
            kept = np.asarray(leaf) != 0
            codes = quantization.unpack(q.codes, formats[name].grid.bits, q.length)
            arrays[f"{name}:mask"] = np.packbits(kept)
            arrays[f"{name}:codes"] = np.asarray(codes)[kept]
            arrays[f"{name}:scale"] = np.asarray(q.scale)
            schema[name] = {"shape": leaf.shape, "format": _describe(formats[name])}
        else:
            arrays[name] = np.asarray(leaf, np.float16)
            schema[name] = {"shape": leaf.shape}
    raw = safetensors.numpy.save(arrays, {"schema": json.dumps(schema, separators=(",", ":"))})
    with written_whole(path) as file:
        file.write(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    return path.stat().st_size


def read_packed(path: Path) -> dict[str, Any]:
    """The weights of a file of `write_packed`, by path, in float32."""
    raw = lzma.decompress(path.read_bytes())
    arrays = safetensors.numpy.load(raw)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    schema = json.loads(header["__metadata__"]["schema"])
    return {name: _read_leaf(name, entry, arrays) for name, entry in schema.items()}


def _read_leaf(name: str, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    if "format" not in entry:
        return arrays[name].astype(np.float32)
    shape, format = tuple(entry["shape"]), quantization.integer(**entry["format"])
    kept = np.unpackbits(arrays[f"{name}:mask"], count=int(np.prod(shape))).reshape(shape) != 0
    codes = np.full(shape, 2 ** (format.grid.bits - 1), np.uint8)  # the code of zero
    codes[kept] = arrays[f"{name}:codes"]
    packed = quantization.pack(jnp.asarray(codes), format.grid.bits)
    scale = jnp.asarray(arrays[f"{name}:scale"])
    return quantization.dequantize(QTensor(packed, scale, None, format, shape[-1], "float32"))


def _describe(format: Format) -> dict[str, Any]:
    grid = format.grid
    if not isinstance(grid, Integers) or not grid.symmetric:
        raise ValueError(
            "write_packed: only symmetric formats of integers, whose zero is one code, are packed."
        )
    return {
        "bits": grid.bits,
        "bound": grid.bound,
        "axis": format.axis,
        "group_size": format.group_size,
        "scale_dtype": format.scale_dtype,
    }
