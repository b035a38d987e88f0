"""`wlab quantize SRC DST --format int4 --group 128`: writes the weights of a file in few bits.

Leaves are read, quantized and written one at a time. `--method gptq` and `awq` need a network that
wlab knows and a text, and hold the network; awq also changes leaves that are not quantized, such as
norms. A `.gguf` target takes one of ggml's formats and a network of the LLaMA family: a GGUF file,
a folder of the hub, or a name of the shelf. A `.onnx` target has nodes that dequantize integers,
and the names of the source for their outputs. A target that is a folder takes a folder of the hub,
and is written in the format of compressed-tensors.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wlab import checkpoint
from wlab.checkpoint import Lazy
from wlab.cli import (
    by_text,
    plan,
    quantized_by_text,
    quantized_gguf,
    quantized_hub,
    quantized_leaves,
    quantized_onnx,
    quantized_parts,
    shelf,
    weight_files,
)
from wlab.cli.quantized_by_text import Method
from wlab.cli.quantized_source import BY_TEXT, Opened, opened

ENDINGS = (".safetensors", ".gguf", ".onnx", "")
_RECIPE = ("format", "group", "scales", "asymmetric", "axis", "method", "rules", "data")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", help="a file of any format, a folder of the hub, or of `wlab weights list`")
    flag("target", type=Path, help=".safetensors, .gguf or .onnx, or a folder of the hub")
    quantized_leaves.arguments(parser)
    by_text.arguments(parser, BY_TEXT)
    weight_files.arguments(parser)
    shelf.places(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was quantized and written, or would be."""
    _refuse_misuse(args)
    source = opened(args, args.target)
    plain = _plain(args, source)
    folder = weight_files.ending(args.target) == ""
    rows = (source.format == "gguf" or folder) and source.network is None
    choices = quantized_leaves.chosen(plain, args, rows=rows)
    _refuse_k_elsewhere(args, choices)
    found: dict[str, dict[str, Any]] = {name: {} for name in plain}
    method = _method(args, source, choices)
    if args.method == "awq":
        source, method = quantized_by_text.by_awq(args, source, choices)
        plain = _plain(args, source)
    with _counted({n: x for n, x in plain.items() if not isinstance(choices[n], str)}) as chosen:
        made = {
            name: partial(_made, name, array, choices[name], method, found[name])
            for name, array in chosen.items()
        }
        _write(args, source, plain, choices, made, found)
    return {
        "source": args.source,
        "target": str(args.target),
        "written": not args.dry_run,
        "file": None if args.dry_run else _written(args.target),
        **plan.told(source.arrays, plain, choices, found),
    }


def text(result: dict[str, Any]) -> str:
    """A row a leaf that is quantized, the sums, what was left alone, and the file."""
    before, after = (result["totals"][-1][key] for key in ("before", "disk"))
    verb = "wrote" if result["written"] else "would write"
    return (
        f"{plan.table(result)}\n{verb} {after:,} bytes of weights, from {before:,}: "
        f"{result['target']}"
    )


def _refuse_misuse(args: argparse.Namespace) -> None:
    quantized_leaves.refuse_misuse(args)
    if weight_files.ending(args.target) not in ENDINGS:
        args.usage_error(f"{args.target} must end in .safetensors, .gguf or .onnx, or be a folder.")
    if args.target.suffix == ".gguf" and not args.format.startswith("ggml_"):
        args.usage_error(f"GGUF files take ggml_q4_0 to ggml_q6_k, not {args.format}.")
    by_text.refuse_misuse(args, BY_TEXT)
    if args.target.exists() and not args.force and not args.dry_run:
        raise FileExistsError(f"{args.target} is there: --force replaces it.")


def _refuse_k_elsewhere(args: argparse.Namespace, choices: Mapping[str, Any]) -> None:
    from wlab.quantization.k_quants import KQuant

    for name, choice in choices.items():
        if isinstance(choice, KQuant) and args.target.suffix != ".gguf":
            raise ValueError(
                f"leaf {name!r}: {choice} is of GGUF files alone. Give a target that ends in "
                ".gguf, or another format."
            )


def _plain(args: argparse.Namespace, source: Opened) -> dict[str, Lazy]:
    """The arrays as they are written where they are not quantized."""
    return {name: array.plain(args.dtype) for name, array in source.arrays.items()}


def _method(args: argparse.Namespace, source: Opened, choices: Mapping[str, Any]) -> Method:
    """How a leaf is quantized."""
    import jax

    from wlab import quantization

    if args.method == "gptq":
        return quantized_by_text.by_gptq(args, source, choices)
    how = quantization.hqq if args.method == "hqq" else quantization.quantize
    made = jax.jit(how, static_argnames="format")
    return lambda name, array, format: made(jax.numpy.asarray(array), format=format)


def _made(name: str, array: Lazy, format: Any, method: Method, found: dict[str, Any]) -> Any:
    """The QTensor of a leaf, which is read now; fills in what it has lost.

    Of a K-quant, which has none, the leaf itself.
    """
    import jax

    from wlab.quantization.k_quants import KQuant
    from wlab.quantization.quality import quality

    x = array.read()
    _refuse_nonfinite(name, x)
    if isinstance(format, KQuant):
        return x
    q = method(name, x, format)
    measured = jax.jit(quality)(jax.numpy.asarray(x), q)._asdict()
    found.update({key: float(value) for key, value in measured.items()})
    return q


def _written(target: Path) -> int:
    """Bytes of the file, or of the weights in a folder."""
    return (target / "model.safetensors" if target.is_dir() else target).stat().st_size


def _refuse_nonfinite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array.astype(np.float32, copy=False)).all():
        raise ValueError(
            f"leaf {name!r} holds NaN or infinity, which no code stands for. Mend it, or leave it "
            f"alone with --rules '{re.escape(name)}=no'."
        )


def _write(
    args: argparse.Namespace,
    source: Opened,
    plain: Mapping[str, Lazy],
    choices: Mapping[str, Any],
    made: Mapping[str, Callable[[], Any]],
    found: Mapping[str, dict[str, Any]],
) -> None:
    """Writes the file, or on a dry run only reads what would be in it."""
    if weight_files.ending(args.target) == "":
        quantized_hub.write(args, plain, choices, made, found)
        return
    if args.target.suffix == ".onnx":
        quantized_onnx.write(args, plain, choices, made, found)
        return
    recipe = {key: getattr(args, key) for key in _RECIPE if getattr(args, key)}
    if args.target.suffix == ".gguf":
        arrays, metadata = quantized_gguf.arrays(args, source, plain, choices, made, found)
        write = partial(checkpoint.save_gguf, metadata=metadata)
    else:
        arrays, schema = quantized_parts.arrays(plain, choices, made)
        words = {key: value for key, value in source.metadata.items() if isinstance(value, str)}
        words |= {"quantized": json.dumps(recipe)}
        write = partial(checkpoint.save_packed, schema=schema, metadata=words)
    if not args.dry_run:
        write(args.target, arrays)
        return
    for array in arrays.values():
        array.read() if array.blocks is None else array.blocks()


@contextmanager
def _counted(arrays: Mapping[str, Lazy]) -> Iterator[dict[str, Lazy]]:
    """The same arrays, which report that they were read: weights done, and the time left."""
    from wlab.data.progress import progress

    done = 0

    def counted(array: Lazy) -> Lazy:
        def read() -> np.ndarray:
            nonlocal done
            found = array.read()
            done += array.size
            report(done)
            return found

        return replace(array, read=read)

    total = sum(array.size for array in arrays.values())
    with progress("quantizing", total, unit="weights") as report:
        yield {name: counted(array) for name, array in arrays.items()}
