"""Quantization again in plain numpy: one group at a time, no padding, no shared code."""

import ml_dtypes
import numpy as np

SCALE_TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LARGEST = {"float32": 2.0**126, "float16": 65504.0, "bfloat16": 2.0**126}
SMALLEST = {"float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}


def round_scale(scale, dtype):
    if dtype == "float32":
        significand, exponent = np.frexp(scale)
        rounded = np.ldexp(np.rint(significand * 2**16) / 2**16, exponent)
    else:
        with np.errstate(over="ignore"):
            rounded = scale.astype(SCALE_TYPES[dtype]).astype(np.float32)
    return np.clip(rounded.astype(np.float32), np.float32(SMALLEST[dtype]), LARGEST[dtype])


def quantize_block(x, *, bits, symmetric, bound, scale_dtype):
    """A block, whatever its shape, to (values, codes, scale, zero point), all in float32."""
    x = np.where(np.abs(x) < 2.0**-126, np.float32(0), x).astype(np.float32)
    half, top = 2 ** (bits - 1), 2**bits - 1
    low, high = min(x.min(initial=0), np.float32(0)), max(x.max(initial=0), np.float32(0))
    if symmetric:
        steps = half - 1 if bound == "qmax" else half - 0.5
        scale = max(-low, high) * np.float32(1 / steps)
    else:
        scale = (high - low) * np.float32(1 / top)
    if not np.isfinite(scale):
        return np.full_like(x, np.nan), np.zeros_like(x), np.float32(np.nan), half
    scale = round_scale(np.asarray(scale), scale_dtype)
    inverse = np.float32(1) / scale
    zero_point = half if symmetric else np.clip(np.rint(-low * inverse), 0, top)
    lowest = 1 if symmetric and bound == "qmax" else 0
    codes = np.clip(np.rint(x * inverse) + np.float32(zero_point), lowest, top)
    values = ((codes - np.float32(zero_point)) * scale).astype(np.float32)
    return values, codes, scale, zero_point


def quantize_matrix(x, *, axis, group_size, **grid):
    """A matrix; `axis` is 0, 1 or None. Returns values, codes, scales, zero points."""
    if axis is None:
        values, codes, scale, zero_point = quantize_block(x, **grid)
        return values, codes, np.full((1, 1), scale), np.full((1, 1), zero_point)
    columns = x if axis == 0 else x.T
    n, size = columns.shape[0], group_size or columns.shape[0]
    out = [[], [], [], []]
    for start in range(0, n, size):
        group = columns[start : start + size]
        parts = [quantize_block(column, **grid) for column in group.T]
        for kept, part in zip(out, zip(*parts, strict=True), strict=True):
            kept.append(np.stack(part, axis=-1).reshape(-1, columns.shape[1]))
    return tuple(np.concatenate(o) if axis == 0 else np.concatenate(o).T for o in out)
