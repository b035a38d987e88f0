"""A leaf as one of ggml's K-quants, for a GGUF file: its blocks, and what it has lost."""

from collections.abc import Callable
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy

_SLAB = 1 << 20  # weights whose scales are searched for at once


def leaf(
    array: Lazy,
    format: Any,
    read: Callable[[], np.ndarray],
    to_rows: Callable[[np.ndarray], np.ndarray],
    found: dict[str, Any],
) -> Lazy:
    """A leaf that is quantized when its blocks are read; fills in what it has lost then.

    Args:
        array: The plain leaf.
        format: A `KQuant`.
        read: Reads and checks the leaf.
        to_rows: Moves its rows to where the file has them, inputs last.
        found: Of this leaf.
    """
    from wlab.checkpoint.formats.gguf_blocks import decode
    from wlab.quantization.k_quants import k_bytes

    shape = to_rows(np.broadcast_to(np.uint8(0), array.shape)).shape

    def blocks() -> np.ndarray:
        rows = to_rows(read()).astype(np.float32, copy=False).reshape(-1, shape[-1])
        made = _by_slabs(rows, format.encoding)
        found.update(_lost(rows, decode(made, format.encoding)))
        return made

    def plain() -> np.ndarray:
        return decode(blocks(), format.encoding).reshape(shape)

    return Lazy(shape, "float32", k_bytes(format, shape), plain, format.encoding, blocks)


def _by_slabs(rows: np.ndarray, encoding: str) -> np.ndarray:
    from wlab.quantization.gguf_k_blocks import k_blocks

    many = max(1, _SLAB // rows.shape[1])
    slabs = [k_blocks(rows[i : i + many], encoding) for i in range(0, len(rows), many)]
    return np.concatenate(slabs)


def _lost(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """As `wlab.quantization.quality`; no code of a K-quant is beyond a grid that was fitted."""
    from wlab.quantization.quality import OUTLYING

    errors = np.abs(before - after)
    signal, noise = (float(np.sum(np.square(x), dtype=np.float64)) for x in (before, errors))
    far = np.abs(before) > OUTLYING * np.sqrt(signal / before.size)
    return {
        "sqnr_db": float(10 * np.log10(signal / noise)) if noise and signal else float("inf"),
        "largest_error": float(errors.max()),
        "outliers": float(far.mean()),
    }
