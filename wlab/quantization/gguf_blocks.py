"""Codes as ggml's blocks, byte for byte: nothing is rounded again.

A block holds 32 neighbours of a row: d (and m) in float16, then the codes. A row of a GGUF file is
an output, so a kernel stored (in, out) is turned first, codes and scales alike.

Reference: ggml, `ggml-common.h` (`block_q4_0`, `block_q4_1`, `block_q5_0`, `block_q5_1`,
`block_q8_0`).
"""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from wlab.quantization.formats import Format
from wlab.quantization.k_quants import KQuant
from wlab.quantization.packing import unpack
from wlab.quantization.presets import ggml_q4_0, ggml_q4_1, ggml_q5_0, ggml_q5_1, ggml_q8_0
from wlab.quantization.qtensor import QTensor, check

_SIZE = 32  # codes in a block
_ENCODINGS = {
    ggml_q4_0: "Q4_0",
    ggml_q4_1: "Q4_1",
    ggml_q5_0: "Q5_0",
    ggml_q5_1: "Q5_1",
    ggml_q8_0: "Q8_0",
}


def gguf_encoding(format: Format | KQuant) -> str | None:
    """What ggml calls a format, whichever axis it runs along; None if it is none of ggml's."""
    if isinstance(format, KQuant):
        return format.encoding
    if isinstance(format.axis, int):
        return _ENCODINGS.get(replace(format, axis=-1))
    return None


def gguf_blocks(
    q: QTensor, *, to_rows: Callable[[np.ndarray], np.ndarray] | None = None, name: str = "QTensor"
) -> UInt8[np.ndarray, "rows bytes"]:
    """The blocks of a leaf in one of ggml's formats, one row for each output.

    Args:
        q: The leaf.
        to_rows: Moves whole rows of codes, and of scales, to where the file has them, groups last:
            by default the transpose of a matrix whose groups run along its first axis, nothing if
            they run along the last.
        name: What to call the leaf in errors.

    Raises:
        ValueError: If the format is not one of ggml's, a row is not whole blocks, or `to_rows`
            leaves groups that do not run along the last axis.
    """
    encoding = gguf_encoding(q.format)
    if encoding is None:
        raise ValueError(
            f"{name} is {q.format}, which ggml lacks; {', '.join(_ENCODINGS.values())} have blocks."
        )
    check(q, name)
    (axis,) = q.format.axes(len(q.shape))
    if q.shape[axis] % _SIZE:
        raise ValueError(
            f"{name} has {q.shape[axis]} inputs, not whole {encoding} blocks of {_SIZE}; "
            "leave it in float16."
        )
    move = to_rows or _rows_last(axis, len(q.shape), name)
    bits = q.format.grid.bits
    codes = move(np.asarray(unpack(jnp.asarray(q.codes), bits, q.length, q.format.order)))
    parts = [move(np.asarray(x)) for x in (q.scale, q.zero_point) if x is not None]
    wanted = (*codes.shape[:-1], codes.shape[-1] // _SIZE)
    if any(part.shape != wanted for part in parts):
        raise ValueError(f"{name}: groups do not run along the rows of {list(codes.shape)}.")
    halves = [part.reshape(-1, 1).astype("<f2").view(np.uint8) for part in parts]
    blocks = np.concatenate([*halves, _packed(codes.reshape(-1, _SIZE), bits)], axis=1)
    return blocks.reshape(int(np.prod(codes.shape[:-1])), -1)


def _rows_last(axis: int, ndim: int, name: str) -> Callable[[np.ndarray], np.ndarray]:
    if axis == ndim - 1:
        return lambda x: x
    if ndim == 2:
        return np.transpose
    raise ValueError(f"{name} has {ndim} axes and groups along axis {axis}: give `to_rows`.")


def _packed(codes: UInt8[np.ndarray, "n 32"], bits: int) -> UInt8[np.ndarray, "n bytes"]:
    if bits == 8:
        return codes ^ np.uint8(128)  # two's complement of code − 128
    low = codes & np.uint8(15)
    nibbles = low[:, : _SIZE // 2] | low[:, _SIZE // 2 :] << np.uint8(4)
    if bits == 4:
        return nibbles
    fifth = np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")
    return np.concatenate([fifth, nibbles], axis=1)
