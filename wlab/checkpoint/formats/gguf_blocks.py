"""The block encodings of ggml: 32 or 256 neighbours of a row share scales.

A block is a run of bytes; q are its small integers, d and m its float16 scale and offset:

    Q8_0  d·q           Q4_0  d·(q - 8)     Q5_0  d·(q - 16)
                        Q4_1  d·q + m       Q5_1  d·q + m
    Q4_K  d·s·q - m·t   with 6-bit s and t for each 32 of 256
    Q6_K  d·s·(q - 32)  with 8-bit s for each 16 of 256

Reference: ggml, `ggml-common.h` (the layouts) and `ggml-quants.c` (`dequantize_row_*`,
`quantize_row_*_ref`).
"""

from collections.abc import Callable

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 by name)
import numpy as np
from jaxtyping import Float16, Float32, UInt8

from wlab.checkpoint.formats.gguf_types import ENCODINGS, Encoding

_SLAB = 1 << 20  # elements that are worked on at once


def decode(blocks: UInt8[np.ndarray, "rows bytes"], encoding: str) -> Float32[np.ndarray, "rows n"]:
    """The numbers that encoded rows stand for.

    Raises:
        ValueError: If the encoding is not one of `DECODED`, or a row is not whole blocks.
    """
    if encoding not in DECODED:
        raise ValueError(f"decode: {encoding!r} is not decoded; {', '.join(DECODED)} are.")
    kind = ENCODINGS[encoding]
    rows, width = blocks.shape
    if width % kind.nbytes:
        raise ValueError(
            f"decode: rows of {width:,} bytes are not whole {encoding} blocks of {kind.nbytes}."
        )
    n = width // kind.nbytes * kind.size
    out = np.empty((rows * n // kind.size, kind.size), np.float32)
    _by_slabs(DECODED[encoding], blocks.reshape(-1, kind.nbytes), out, kind)
    return out.reshape(rows, n)


def encode(x: Float32[np.ndarray, "rows n"], encoding: str) -> UInt8[np.ndarray, "rows bytes"]:
    """The blocks of ggml's reference quantizer, bit for bit.

    With a the entry of largest magnitude in a block, all in float32:

        Q8_0  d = |a| / 127,  q = round(x · 1/d), halves away from zero
        Q4_0  d = -a / 8,     q = min(15, floor(x · 1/d + 8.5))

    Raises:
        ValueError: If the encoding is not one of `ENCODED`, a row is not whole blocks, or a
            number (NaN, infinity, a scale above 65,504) has no place in it.
    """
    if encoding not in ENCODED:
        raise ValueError(f"encode: {encoding!r} is not written; {', '.join(ENCODED)} are.")
    kind = ENCODINGS[encoding]
    rows, n = x.shape
    if n % kind.size:
        raise ValueError(
            f"encode: rows of {n:,} elements are not whole {encoding} blocks of {kind.size}; "
            "keep this array as F16."
        )
    out = np.empty((rows * n // kind.size, kind.nbytes), np.uint8)
    _by_slabs(ENCODED[encoding], np.ascontiguousarray(x).reshape(-1, kind.size), out, kind)
    return out.reshape(rows, n // kind.size * kind.nbytes)


def _by_slabs(
    change: Callable[[np.ndarray], np.ndarray], x: np.ndarray, out: np.ndarray, kind: Encoding
) -> None:
    step = _SLAB // kind.size
    with np.errstate(all="ignore"):  # a scale may be anything, NaN included
        for at in range(0, len(x), step):
            out[at : at + step] = change(x[at : at + step])


def _scale(blocks: UInt8[np.ndarray, "n bytes"], at: int) -> Float32[np.ndarray, "n 1"]:
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: UInt8[np.ndarray, "n bytes"]) -> UInt8[np.ndarray, "n elements"]:
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _q8_0(blocks: UInt8[np.ndarray, "n 34"]) -> Float32[np.ndarray, "n 32"]:
    return _scale(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q4_0(blocks: UInt8[np.ndarray, "n 18"]) -> Float32[np.ndarray, "n 32"]:
    return _scale(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: UInt8[np.ndarray, "n 20"]) -> Float32[np.ndarray, "n 32"]:
    return _scale(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _scale(blocks, 2)


def _fives(
    high: UInt8[np.ndarray, "n 4"], low: UInt8[np.ndarray, "n 16"]
) -> Float32[np.ndarray, "n 32"]:
    bits = np.unpackbits(high, axis=1, bitorder="little")
    return (_nibbles(low) | bits << 4).astype(np.float32)


def _q5_0(blocks: UInt8[np.ndarray, "n 22"]) -> Float32[np.ndarray, "n 32"]:
    return _scale(blocks, 0) * (_fives(blocks[:, 2:6], blocks[:, 6:]) - 16)


def _q5_1(blocks: UInt8[np.ndarray, "n 24"]) -> Float32[np.ndarray, "n 32"]:
    return _scale(blocks, 0) * _fives(blocks[:, 4:8], blocks[:, 8:]) + _scale(blocks, 2)


def _q4_k(blocks: UInt8[np.ndarray, "n 144"]) -> Float32[np.ndarray, "n 256"]:
    # Twelve bytes hold eight 6-bit scales and eight 6-bit offsets: the first four of each stand
    # in the low bits of bytes 0-3 and 4-7, whose two top bits complete the nibbles of 8-11.
    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    s = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1).astype(np.float32)
    t = np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1).astype(np.float32)
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    q = np.stack([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32).astype(np.float32)
    scaled = (_scale(blocks, 0) * s)[:, :, None] * q - (_scale(blocks, 2) * t)[:, :, None]
    return scaled.reshape(-1, 256)


def _q6_k(blocks: UInt8[np.ndarray, "n 210"]) -> Float32[np.ndarray, "n 256"]:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8) & 3
    q = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    s = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (s[:, :, None] * q).reshape(-1, 256)


def _plain(dtype: str) -> Callable[[UInt8[np.ndarray, "n bytes"]], Float32[np.ndarray, "n 1"]]:
    stored = np.dtype(dtype).newbyteorder("<")
    return lambda blocks: np.ascontiguousarray(blocks).view(stored).astype(np.float32)


def _cast(dtype: str) -> Callable[[Float32[np.ndarray, "n 1"]], UInt8[np.ndarray, "n bytes"]]:
    stored = np.dtype(dtype).newbyteorder("<")

    def cast(x: Float32[np.ndarray, "n 1"]) -> UInt8[np.ndarray, "n bytes"]:
        y = x.astype(stored)
        if (np.isinf(y.astype(np.float32)) & np.isfinite(x)).any():
            raise ValueError(f"encode: {np.abs(x).max():.3g} is beyond {dtype}; keep float32.")
        return y.view(np.uint8)

    return cast


def _halves(d: Float32[np.ndarray, "n 1"]) -> Float16[np.ndarray, "n 1"]:
    halves = d.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError("encode: a NaN, an infinity or a scale above 65,504; keep float32.")
    return halves


def _inverse(d: Float32[np.ndarray, "n 1"]) -> Float32[np.ndarray, "n 1"]:
    inverse = 1 / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _joined(d: Float16[np.ndarray, "n 1"], q: UInt8[np.ndarray, "n bytes"]) -> np.ndarray:
    return np.concatenate([d.astype("<f2").view(np.uint8), q], axis=1)


def _to_q8_0(x: Float32[np.ndarray, "n 32"]) -> UInt8[np.ndarray, "n 34"]:
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    halves = _halves(d)
    scaled = np.abs(x * _inverse(d))
    whole = np.floor(scaled)
    q = np.copysign(whole + (scaled - whole >= 0.5), x).astype(np.int8)
    return _joined(halves, q.view(np.uint8))


def _to_q4_0(x: Float32[np.ndarray, "n 32"]) -> UInt8[np.ndarray, "n 18"]:
    at = np.abs(x).argmax(axis=1, keepdims=True)
    d = np.take_along_axis(x, at, axis=1) / np.float32(-8)
    halves = _halves(d)
    q = np.minimum(15, x * _inverse(d) + np.float32(8.5)).astype(np.uint8)
    return _joined(halves, q[:, :16] | q[:, 16:] << 4)


DECODED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": _plain("float32"),
    "F16": _plain("float16"),
    "BF16": _plain("bfloat16"),
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
ENCODED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": _cast("float32"),
    "F16": _cast("float16"),
    "BF16": _cast("bfloat16"),
    "Q4_0": _to_q4_0,
    "Q8_0": _to_q8_0,
}
