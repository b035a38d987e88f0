"""Float, codebook and block-scaled formats again in plain numpy: `ml_dtypes` does the casts."""

import ml_dtypes
import numpy as np
from quantization_twin import round_scale

FLOATS = {  # dtype, exponent bits, significand bits, largest number
    "e4m3": (ml_dtypes.float8_e4m3fn, 4, 3, 448.0),
    "e5m2": (ml_dtypes.float8_e5m2, 5, 2, 57344.0),
    "e2m3": (ml_dtypes.float6_e2m3fn, 2, 3, 7.5),
    "e3m2": (ml_dtypes.float6_e3m2fn, 3, 2, 28.0),
    "e2m1": (ml_dtypes.float4_e2m1fn, 2, 1, 6.0),
}


def float_block(x, name, *, scale_dtype="float32", outer=None):
    """A block to (values, codes, scale as stored), all float32; codes are bit patterns."""
    dtype, *_, largest = FLOATS[name]
    x = flushed(x)
    amax = np.abs(x).max(initial=np.float32(0))
    if scale_dtype == "e8m0":
        stored = power_scale(amax, largest)
    else:
        raw = amax * np.float32(1 / largest)
        stored = (
            byte_scale(raw * (np.float32(1) / outer))
            if outer
            else round_scale(np.asarray(raw), scale_dtype)
        )
    scale = np.float32(stored * (outer or np.float32(1)))
    cast = np.clip(x * (np.float32(1) / scale), -largest, largest).astype(dtype)
    return cast.astype(np.float32) * scale, cast.view(np.uint8), stored


def code_block(x, values, *, scale_dtype="float32", upper=False):
    """A block to (values, codes, scale): the nearest value by distance in float64."""
    values = np.asarray(values, np.float32)
    x = flushed(x)
    end = np.abs(values).max()
    scale = round_scale(np.asarray(np.abs(x).max() * np.float32(1 / end)), scale_dtype)
    y = (x * (np.float32(1) / scale)).astype(np.float64)
    distance = np.abs(y[..., None] - values.astype(np.float64))
    codes = distance.argmin(-1)
    if upper:
        codes = len(values) - 1 - distance[..., ::-1].argmin(-1)
    return values[codes] * scale, codes.astype(np.uint8), scale


def integer_block(x, *, bits, bound, rounding, coding, scale_dtype):
    """A block to (values, codes, scale), with every convention spelled out."""
    x = flushed(x)
    half, top = 2 ** (bits - 1), 2**bits - 1
    largest = x[np.abs(x).argmax()]
    if bound == "minimum":
        raw, start, zero, lowest = (x.max() - x.min()) * np.float32(1 / top), x.min(), 0, 0
    else:
        steps = {"qmax": half - 1, "half": half - 0.5, "full": half, "signed": -half}[bound]
        end = largest if bound == "signed" else np.abs(largest)
        raw, start, zero = end * np.float32(1 / steps), np.float32(0), half
        lowest = 1 if bound == "qmax" else 0
    stored = round_scale(np.abs(raw), scale_dtype) * np.where(raw < 0, np.float32(-1), 1)
    if coding == "exact" and scale_dtype == "float16":
        stored = np.float32(np.float16(raw))
    kept = round_minimum(start, scale_dtype)
    scale, origin = (raw, start) if coding == "exact" else (stored, kept)
    scale = scale if scale else np.float32(2.0**-126)
    whole = rounded((x - origin) * (np.float32(1) / scale), rounding)
    codes = np.clip(whole + zero, lowest, top).astype(np.float32)
    values = (codes - np.float32(zero)) * stored
    return values + kept if bound == "minimum" else values, codes, stored


def round_minimum(minimum, dtype):
    if minimum == 0 or dtype == "float16":
        return np.float32(np.float16(minimum))
    return np.copysign(round_scale(np.abs(minimum), dtype), minimum)


def rounded(y, rounding):
    """Halves in float64, where adding one is exact."""
    y = y.astype(np.float64)
    if rounding == "half_even":
        return np.rint(y)
    if rounding == "half_up":
        return np.floor(y + 0.5)
    return np.copysign(np.floor(np.abs(y) + 0.5), y)


def power_scale(amax, largest):
    """OCP MX v1.0, section 6.3: the power of two below amax over that below the largest."""
    if amax == 0:
        return np.float32(2.0**-126)
    exponent = np.frexp(amax)[1] - np.frexp(largest)[1]
    return np.float32(2.0 ** np.clip(exponent, -126, 126))


def byte_scale(scale):
    return np.clip(scale, 2.0**-6, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def outer_scale(x, largest):
    raw = np.abs(flushed(x)).max(initial=np.float32(0)) * np.float32(1 / (448 * largest))
    return max(round_scale(np.asarray(raw), "float32"), np.float32(2.0**-117))


def flushed(x):
    return np.where(np.abs(x) < 2.0**-126, np.copysign(np.float32(0), x), x).astype(np.float32)


def by_blocks(x, block, *, axis, group_size):
    """A matrix, each block alone; axis is 0, 1 or None. Values, codes, scales."""
    if axis is None:
        values, codes, scale = block(x)
        return values, codes, np.full((1, 1), scale)
    columns = x if axis == 0 else x.T
    size = group_size or len(columns)
    values, codes = np.empty(columns.shape, np.float32), np.empty(columns.shape, np.uint8)
    scales = np.empty((-(-len(columns) // size), columns.shape[1]), np.float32)
    for row, start in enumerate(range(0, len(columns), size)):
        for column in range(columns.shape[1]):
            at = (slice(start, start + size), column)
            values[at], codes[at], scales[row, column] = block(columns[at])
    return (values, codes, scales) if axis == 0 else (values.T, codes.T, scales.T)
