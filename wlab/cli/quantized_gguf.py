"""Leaves in ggml's formats as the arrays of a GGUF file, their codes byte for byte."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy
from wlab.cli import quantized_k
from wlab.cli.quantized_source import Opened

# `general.file_type`: llama.cpp's name for what most arrays are.
_FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q4_K": 14, "Q6_K": 18}
_VERSION = 2  # of ggml's blocks: scales are float16


def arrays(
    args: argparse.Namespace,
    source: Opened,
    plain: Mapping[str, Lazy],
    choices: Mapping[str, Any],
    made: Mapping[str, Callable[[], Any]],
    found: Mapping[str, dict[str, Any]],
) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """The arrays under ggml's names, and the metadata; fills in the bytes of each leaf.

    What is not quantized keeps the file's type, and vectors are float32, as llama.cpp wants them.

    Raises:
        ValueError: If the source has not ggml's names, or a leaf is no whole blocks, naming it.
    """
    if source.format != "gguf":
        raise ValueError(
            f"{args.source} does not name its arrays as ggml does: a .gguf target takes a GGUF "
            "file, or a network of the LLaMA family: a folder of the hub, or a name of "
            "`wlab weights list`."
        )
    from wlab.pretrained.networks.gguf import gguf_arrays
    from wlab.quantization.k_quants import KQuant

    rows = dict.fromkeys(plain, _identity)
    names = {name: name for name in plain}
    others = {name: _kept(source, array, name, args) for name, array in plain.items()}
    angles: dict[str, Lazy] = {}  # of rotary positions: an array that is no leaf
    if source.network is not None:
        names, rows = _moves(source.network)
        exported = gguf_arrays(source.network, dtype=args.dtype)
        others = {path: exported.pop(name) for path, name in names.items()}
        angles = exported
    written = {}
    for name, array in plain.items():
        lazy = others[name]
        if isinstance(choices[name], KQuant):
            given = (choices[name], made[name], rows[name])
            lazy = quantized_k.leaf(array, *given, found[name])
        elif name in made:
            lazy = _blocks(name, array, choices[name], made[name], rows[name])
        written[names[name]] = lazy
        found[name]["disk"] = lazy.nbytes
    return written | angles, _metadata(source, choices)


def _blocks(
    name: str,
    array: Lazy,
    format: Any,
    make: Callable[[], Any],
    to_rows: Callable[[np.ndarray], np.ndarray],
) -> Lazy:
    """A leaf that is quantized when its blocks are read."""
    from wlab.checkpoint.formats.gguf_blocks import decode
    from wlab.checkpoint.formats.gguf_types import ENCODINGS
    from wlab.quantization.gguf_blocks import gguf_blocks, gguf_encoding

    encoding = gguf_encoding(format)
    if encoding is None:
        raise ValueError(f"leaf {name!r}: a GGUF file has no {format}; choose one of ggml's.")
    shape = to_rows(np.broadcast_to(np.uint8(0), array.shape)).shape
    kind = ENCODINGS[encoding]
    (axis,) = format.axes(len(array.shape))
    if array.shape[axis] % kind.size:
        raise ValueError(
            f"leaf {name!r} has {array.shape[axis]} inputs, not whole {encoding} blocks of "
            f"{kind.size}: leave it alone with --rules '{name}=no'."
        )

    def blocks() -> np.ndarray:
        return gguf_blocks(make(), to_rows=to_rows, name=name)

    def read() -> np.ndarray:
        return decode(blocks(), encoding).reshape(shape)

    nbytes = prod(shape) // kind.size * kind.nbytes
    return Lazy(shape, "float32", nbytes, read, encoding, blocks)


def _kept(source: Opened, array: Lazy, name: str, args: argparse.Namespace) -> Lazy:
    """A leaf that is not quantized."""
    if len(array.shape) < 2:
        return array.plain("float32")
    return source.arrays[name] if args.dtype is None else array


def _moves(network: Any) -> tuple[dict[str, str], dict[str, Callable[[np.ndarray], np.ndarray]]]:
    """What the file calls each leaf, and how rows of the leaf become rows of the file."""
    from wlab.pretrained.ops import inverse

    def to_rows(ops: Any, x: np.ndarray) -> np.ndarray:
        return inverse(ops, [x])[0]

    moves = network.name_map.moves
    for move in moves:
        if (len(move.theirs), len(move.ours)) != (1, 1):
            raise ValueError(f"leaf {move.ours[0]!r} is no array of its own in a GGUF file.")
    names = {move.ours[0]: move.theirs[0] for move in moves}
    return names, {move.ours[0]: partial(to_rows, move.ops) for move in moves}


def _identity(x: np.ndarray) -> np.ndarray:
    return x


def _metadata(source: Opened, choices: Mapping[str, Any]) -> dict[str, Any]:
    from wlab.quantization.gguf_blocks import gguf_encoding

    formats = [choice for choice in choices.values() if not isinstance(choice, str)]
    encodings = [gguf_encoding(format) for format in formats]
    most = max(set(encodings), key=encodings.count)
    changed = {"general.quantization_version": _VERSION}
    if most in _FILE_TYPES:
        changed["general.file_type"] = _FILE_TYPES[most]
    return {**source.metadata, **changed}
