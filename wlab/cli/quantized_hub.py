"""Folders of the hub in compressed-tensors' format, written from another folder, and opened."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source
from wlab.cli import weight_files

_CONFIG = "quantization_config"
_TURNED = ("gpt2",)  # families whose weights are (inputs, outputs), which readers do not expect


def is_quantized(folder: Path) -> bool:
    """Whether a folder's config says that its weights are quantized.

    Raises:
        ValueError: If the config is damaged.
    """
    return _CONFIG in _config(folder)


def opened(folder: Path) -> Source:
    """A folder whose quantized weights are read as the arrays that their codes stand for.

    All are held as they are in the file.

    Raises:
        ValueError: If config and weights are damaged, or do not belong together.
    """
    from wlab.checkpoint.formats.compressed_tensors import Compressed
    from wlab.checkpoint.formats.compressed_tensors_files import load_compressed_tensors

    def lazy(weight: Any) -> Lazy:
        if not isinstance(weight, Compressed):
            return Lazy(weight.shape, weight.dtype.name, weight.nbytes, lambda: weight)
        parts = (weight.codes, weight.scale, weight.zero_point)
        nbytes = sum(part.nbytes for part in parts if part is not None)
        read, dtype = partial(_dequantized, weight), weight.scale.dtype.name
        return Lazy(weight.codes.shape, dtype, nbytes, read, weight.scheme.format)

    found = load_compressed_tensors(folder)
    return Source(folder, "compressed-tensors", {name: lazy(w) for name, w in found.items()})


def write(
    args: argparse.Namespace,
    plain: Mapping[str, Lazy],
    choices: Mapping[str, Any],
    made: Mapping[str, Callable[[], Any]],
    found: Mapping[str, dict[str, Any]],
) -> None:
    """Writes a folder, or on a dry run only quantizes; all codes are held until then.

    Raises:
        ValueError: If the source is no folder of the hub, or a weight has no place in the format,
            naming it.
    """
    from wlab.checkpoint.formats.compressed_tensors import parts
    from wlab.checkpoint.formats.compressed_tensors_files import save_compressed_tensors

    source = Path(args.source)
    config = _config(source)
    if not config or config.get("model_type") in _TURNED:
        raise ValueError(
            f"{source} is no folder of the hub with kernels of (outputs, inputs), which a target "
            "that is a folder takes; end it in .safetensors."
        )
    weights: dict[str, Any] = dict(plain)
    schemes = {name: _scheme(name, choices[name], plain[name].shape) for name in made}
    for name, make in made.items():
        weights[name] = _compressed(name, make(), schemes[name])
        each = parts(name, weights[name]).values()
        found[name]["disk"] = sum(array.nbytes for array in each)
    if args.dry_run:
        return
    save_compressed_tensors(args.target, weights, config=config)
    weight_files.copy_beside(source, args.target, but="config.json")


def _scheme(name: str, format: Any, shape: tuple[int, ...]) -> Any:
    """The scheme of a weight of (outputs, inputs), before anything is quantized."""
    from wlab.checkpoint.formats.compressed_tensors import Scheme
    from wlab.quantization.floats import Floats
    from wlab.quantization.rows import check_rows

    check_rows(format, shape, f"leaf {name!r}")
    if format.axis is not None and format.axes(2) != (1,):
        raise ValueError(f"leaf {name!r}: inputs are the last axis of a folder's weights.")
    size = format.group_size
    group = size if size is not None and size < shape[1] else None
    floats, packed = isinstance(format.grid, Floats), format.grid.bits < 8 or group is not None
    kind = "float-quantized" if floats else "pack-quantized" if packed else "int-quantized"
    grouped = "channel" if group is None else "group"
    strategy = "tensor" if format.axis is None else grouped
    try:
        scheme = Scheme(kind, format.grid.bits, format.grid.symmetric, strategy, group)
        scheme.scale_shape((shape[0], shape[1]))
    except ValueError as error:
        raise ValueError(f"leaf {name!r}: {error}") from None
    return scheme


def _compressed(name: str, q: Any, scheme: Any) -> Any:
    from wlab.checkpoint.formats.compressed_tensors import Compressed
    from wlab.quantization.rows import to_rows

    rows = to_rows(q, f"leaf {name!r}", transposed=False)
    return Compressed(rows.codes, rows.scale, rows.zero_point, scheme)


def _dequantized(weight: Any) -> np.ndarray:
    import jax

    from wlab.quantization import dequantize
    from wlab.quantization.rows import Rows, from_rows

    scheme, parts = weight.scheme, (weight.codes, weight.scale, weight.zero_point)
    rows = Rows(*parts, scheme.bits, scheme.group_size)
    return np.asarray(jax.jit(dequantize)(from_rows(rows, dtype=weight.scale.dtype.name)))


def _config(folder: Path) -> dict[str, Any]:
    from wlab.checkpoint.formats.json_text import json_object

    path = folder / "config.json"
    return json_object(path) if path.is_file() else {}
