"""ONNX models of quantized weights, written by `wlab quantize`, and opened."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy, Source


def is_quantized(path: Path) -> bool:
    """Whether a file is an ONNX model with quantized weights.

    Raises:
        ValueError: If the model is damaged.
    """
    from wlab.checkpoint.formats.onnx_qdq import is_qdq

    return path.suffix == ".onnx" and is_qdq(path)


def opened(path: Path) -> Source:
    """A model whose quantized weights are read as the arrays that their codes stand for.

    All are held as they are in the file.

    Raises:
        ValueError: If the model is damaged, or its parts do not belong together.
    """
    from wlab.checkpoint.formats.onnx_qdq import (
        QuantizedInitializer,
        dequantized,
        load_onnx_qdq,
        onnx_nbytes,
    )

    def lazy(weight: Any) -> Lazy:
        if not isinstance(weight, QuantizedInitializer):
            return Lazy(weight.shape, weight.dtype.name, weight.nbytes, lambda: weight)
        nbytes, dtype = onnx_nbytes(weight), weight.scale.dtype.name
        kind = f"int{weight.bits}"
        return Lazy(weight.codes.shape, dtype, nbytes, partial(dequantized, weight), kind)

    found = load_onnx_qdq(path)
    return Source(path, "onnx", {name: lazy(weight) for name, weight in found.items()})


def write(
    args: argparse.Namespace,
    plain: Mapping[str, Lazy],
    choices: Mapping[str, Any],
    made: Mapping[str, Callable[[], Any]],
    found: Mapping[str, dict[str, Any]],
) -> None:
    """Writes a model, or on a dry run only quantizes; all codes are held until then.

    Raises:
        ValueError: If a weight has no place in the format, naming it.
    """
    from wlab.checkpoint.formats.onnx_qdq import QuantizedInitializer, onnx_nbytes
    from wlab.checkpoint.formats.onnx_qdq_writing import save_onnx_qdq
    from wlab.quantization.onnx_parts import onnx_place, to_onnx_parts

    for name in made:  # before anything is quantized
        onnx_place(choices[name], plain[name].shape, f"leaf {name!r}")
    weights: dict[str, Any] = dict(plain)
    for name, make in made.items():
        weights[name] = QuantizedInitializer(*to_onnx_parts(make(), f"leaf {name!r}"))
        found[name]["disk"] = onnx_nbytes(weights[name])
    if not args.dry_run:
        save_onnx_qdq(args.target, weights)
