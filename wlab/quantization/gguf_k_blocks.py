"""Weights as ggml's K-quants: blocks of 256, whose scales are themselves written in few bits.

    Q4_K  d·s·q − m·t   q of 4 bits, and for each 32 of 256 s and t of 6 bits: 4.5 bits a weight
    Q6_K  d·s·(q − 32)  q of 6 bits, and for each 16 of 256 s of 8 bits: 6.5625 bits a weight

d and m are float16. What `wlab.checkpoint` reads of these blocks is what is meant here. The choice
of scales is by least squares, not ggml's weighted search, so that its files differ in some codes.

Reference: ggml, `ggml-common.h` (`block_q4_K`, `block_q6_K`).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

_SIZE = 256  # weights in a block
_TRIED = np.linspace(-1, 1, 21, dtype=np.float32)  # codes more or less that a range is given
_LARGEST = 65504.0


def k_blocks(x: Float32[np.ndarray, "rows n"], encoding: str) -> UInt8[np.ndarray, "rows bytes"]:
    r"""The blocks of rows of weights, in "Q4_K" or "Q6_K".

    For each group of a block some ranges are tried, the scale of each is that of least
    squares, and the best is kept. Then the scales are rounded, and the codes chosen by those.

    Args:
        x: Rows, one an output; n a multiple of 256.
        encoding: Of ggml's names.

    Raises:
        ValueError: If the encoding is neither, a row is not whole blocks, or a weight is not
            finite or too large for float16.
    """
    if encoding not in _ENCODERS:
        raise ValueError(f"k_blocks: encoding must be in {tuple(_ENCODERS)}, got {encoding!r}.")
    rows, n = x.shape
    if n % _SIZE:
        raise ValueError(
            f"k_blocks: rows of {n:,} weights are not whole {encoding} blocks of {_SIZE}; "
            "choose another encoding for this array."
        )
    if x.size and not np.abs(x).max() <= _LARGEST:
        raise ValueError(f"k_blocks: a weight is not finite or beyond {_LARGEST:,.0f}.")
    return _ENCODERS[encoding](x.reshape(-1, _SIZE)).reshape(rows, -1)


def _to_q4_k(x: Float32[np.ndarray, "n 256"]) -> UInt8[np.ndarray, "n 144"]:
    groups = x.reshape(-1, 8, 32)
    scale, offset = _scale_and_offset(groups)
    d, m = (_half(part.max(-1, keepdims=True) / 63) for part in (scale, offset))
    s, t = (_codes(part, unit, 0, 63) for part, unit in ((scale, d), (offset, m)))
    below = (m * t)[..., None]
    q = _codes(groups + below, (d * s)[..., None], 0, 15)
    return q4_k_packed(d, m, s.astype(np.uint8), t.astype(np.uint8), q.astype(np.uint8))


def _to_q6_k(x: Float32[np.ndarray, "n 256"]) -> UInt8[np.ndarray, "n 210"]:
    groups = x.reshape(-1, 16, 16)
    scale = _scale(groups)
    d = _half(_extreme(scale) / -128)
    s = _codes(scale, d, -128, 127)
    q = _codes(groups, (d * s)[..., None], -32, 31) + 32
    return q6_k_packed(d, s.astype(np.int8), q.astype(np.uint8))


def q4_k_packed(
    d: Float32[np.ndarray, "n 1"],
    m: Float32[np.ndarray, "n 1"],
    s: UInt8[np.ndarray, "n 8"],
    t: UInt8[np.ndarray, "n 8"],
    q: UInt8[np.ndarray, "n 8 32"],
) -> UInt8[np.ndarray, "n 144"]:
    """The parts of Q4_K as bytes.

    The two top bits of the last four s and t stand above the 6 bits of the first four.
    """
    first_s, first_t = (part[:, :4] | part[:, 4:] >> 4 << 6 for part in (s, t))
    rest = s[:, 4:] & 15 | (t[:, 4:] & 15) << 4
    nibbles = (q[:, ::2] | q[:, 1::2] << 4).reshape(-1, 128)
    return np.concatenate([_bytes(d), _bytes(m), first_s, first_t, rest, nibbles], axis=1)


def q6_k_packed(
    d: Float32[np.ndarray, "n 1"], s: Shaped[np.ndarray, "n 16"], q: UInt8[np.ndarray, "n 16 16"]
) -> UInt8[np.ndarray, "n 210"]:
    """The parts of Q6_K as bytes: low nibbles, top pairs of bits, s, d."""
    quarters = q.reshape(-1, 2, 4, 32)
    low = (quarters[:, :, :2] & 15 | (quarters[:, :, 2:] & 15) << 4).reshape(-1, 128)
    pairs = quarters >> 4 << np.array([[0], [2], [4], [6]], np.uint8)
    high = np.bitwise_or.reduce(pairs, axis=2).reshape(-1, 64)
    return np.concatenate([low, high, s.view(np.uint8), _bytes(d)], axis=1)


def _scale_and_offset(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each group the s and t, both at least 0, with the least squared error of s·q − t."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), x.max(-1, keepdims=True)
    width = np.maximum(high - low, 0)
    best = (np.full_like(width, np.inf), width / 15, -low)
    for more in _TRIED:
        q = _codes(x - low, width / (15 + more), 0, 15)
        scale, offset = _line(x, q)
        error = np.square(scale * q - offset - x).sum(-1, keepdims=True)
        best = _better((error, scale, offset), best)
    return best[1][..., 0], best[2][..., 0]


def _line(x: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The straight line through (q, x) of least squares, of those with neither part negative."""
    mean_q, mean_x = q.mean(-1, keepdims=True), x.mean(-1, keepdims=True)
    centred = q - mean_q
    slope = _ratio((centred * (x - mean_x)).sum(-1, keepdims=True), np.square(centred).sum(-1))
    offset = slope * mean_q - mean_x
    through_zero = _ratio((q * x).sum(-1, keepdims=True), np.square(q).sum(-1))
    usable = (slope >= 0) & (offset >= 0)
    return np.where(usable, slope, np.maximum(through_zero, 0)), np.where(usable, offset, 0)


def _scale(x: np.ndarray) -> np.ndarray:
    """Of each group the s, of either sign, with the least squared error of s·q, q from −32 on."""
    extreme = _extreme(x)
    best = (np.full_like(extreme, np.inf), extreme / -32)
    for more in _TRIED:
        q = _codes(x, extreme / -(32 + more), -32, 31)
        scale = _ratio((q * x).sum(-1, keepdims=True), np.square(q).sum(-1))
        best = _better((np.square(scale * q - x).sum(-1, keepdims=True), scale), best)
    return best[1][..., 0]


def _better(new: tuple[np.ndarray, ...], old: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    less = new[0] < old[0]
    return tuple(np.where(less, one, other) for one, other in zip(new, old, strict=True))


def _extreme(x: np.ndarray) -> np.ndarray:
    """The entry of largest magnitude with its sign."""
    return np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)


def _codes(x: np.ndarray, unit: np.ndarray, low: int, high: int) -> np.ndarray:
    """The nearest multiple of a unit, 0 of none."""
    inverse = np.where(unit == 0, 0, 1 / np.where(unit == 0, 1, unit)).astype(np.float32)
    return np.clip(np.rint(x * inverse), low, high).astype(np.float32)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    below = below[..., None]
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0).astype(np.float32)


def _half(x: np.ndarray) -> Float32[np.ndarray, "n 1"]:
    return x.astype(np.float16).astype(np.float32)


def _bytes(x: Float32[np.ndarray, "n 1"]) -> UInt8[np.ndarray, "n 2"]:
    return x.astype("<f2").view(np.uint8)


_ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"Q4_K": _to_q4_k, "Q6_K": _to_q6_k}
