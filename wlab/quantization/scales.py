"""How scales are rounded, and stored: as floats, or as the bytes of an 8-bit float."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab.quantization.floats import Floats
from wlab.quantization.grids import Fit

E4M3 = "float8_e4m3fn"
E8M0 = "float8_e8m0fnu"  # powers of two, 2^(byte − 127); 255 is NaN
SCALE_DTYPES = ("float32", "float16", "bfloat16", E4M3, E8M0)
SIGNIFICAND = 15  # stored bits of a scale's significand, at most
_BYTE = Floats(4, 3, special="nan", scaled=False)
_PLAIN = Fit(None, None)
_MANTISSA = 23


def storage(scale_dtype: str) -> str:
    """The dtype of the arrays that hold such scales: bytes for 8-bit floats."""
    return "uint8" if scale_dtype in (E4M3, E8M0) else scale_dtype


def round_scale(
    scale: Float[Array, "..."], scale_dtype: str, *, subnormal: bool = False
) -> Float[Array, "..."]:
    """The nearest scale that there is; signs stay, what is not finite becomes NaN.

    Below the smallest normal number scales are raised to it, beyond the largest lowered to it.

    Args:
        scale: Scales in float32; for E8M0 powers of two.
        scale_dtype: One of `SCALE_DTYPES`.
        subnormal: For float16: smaller scales are kept, to 2^-24, and may round to zero.
    """
    magnitude = jnp.abs(scale)
    smallest, largest = _ends(scale_dtype)
    if scale_dtype == E4M3:
        clipped = jnp.clip(magnitude, smallest, largest)
        near = _BYTE.decode(_BYTE.encode(clipped, _PLAIN), _PLAIN)
    elif scale_dtype == E8M0:
        near = magnitude
    else:
        info = jnp.finfo(scale_dtype)
        near = jax.lax.reduce_precision(magnitude, info.nexp, min(info.nmant, SIGNIFICAND))
    kept = jnp.clip(near, smallest, largest)
    if subnormal and scale_dtype == "float16":
        kept = jnp.where(magnitude < smallest, jnp.round(magnitude * 2.0**24) * 2.0**-24, kept)
    return jnp.where(jnp.isfinite(scale), jnp.copysign(kept, scale), jnp.nan)


def round_minimum(minimum: Float[Array, "..."], scale_dtype: str) -> Float[Array, "..."]:
    """The nearest number of the dtype, zero among them, to be stored beside a scale."""
    near = round_scale(minimum, scale_dtype, subnormal=True)
    return jnp.where(minimum == 0, 0, near)


def bounded(scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """The scale as it is, but for what has no normal reciprocal."""
    kept = jnp.clip(jnp.abs(scale), np.float32(2.0**-126), np.float32(2.0**126))
    return jnp.where(jnp.isfinite(scale), jnp.copysign(kept, scale), jnp.nan)


def round_down_to_power(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The largest power of two that is at most x; zero below 2^-126, NaN where not finite."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    power = jax.lax.bitcast_convert_type(bits & (255 << _MANTISSA), jnp.float32)
    return jnp.where(jnp.isfinite(x), power, jnp.nan)


def store(scale: Float[Array, "..."], scale_dtype: str) -> Array:
    """Rounded scales as they are stored."""
    if scale_dtype == E4M3:
        code = jnp.where(jnp.isnan(scale), _BYTE.top + 1, _BYTE.encode(scale, _PLAIN))
        return code.astype(jnp.int32).astype(jnp.uint8)
    if scale_dtype == E8M0:
        exponent = (jax.lax.bitcast_convert_type(scale, jnp.int32) >> _MANTISSA) & 255
        return jnp.where(jnp.isnan(scale), 255, exponent).astype(jnp.uint8)
    return scale.astype(scale_dtype)


def load(stored: Array, scale_dtype: str) -> Float[Array, "..."]:
    """Undoes `store`, in float32."""
    if scale_dtype == E4M3:
        return _BYTE.decode(stored.astype(jnp.float32), _PLAIN)
    if scale_dtype == E8M0:
        exponent = stored.astype(jnp.int32)
        power = jax.lax.bitcast_convert_type(exponent << _MANTISSA, jnp.float32)
        return jnp.where(exponent == 255, jnp.nan, power)
    return stored.astype(jnp.float32)


def _ends(scale_dtype: str) -> tuple[np.float32, np.float32]:
    """The reciprocal must be a normal float32 too."""
    if scale_dtype == E4M3:
        return np.float32(2.0**-6), np.float32(_BYTE.steps)
    if scale_dtype == E8M0:
        return np.float32(2.0**-126), np.float32(2.0**126)
    info = jnp.finfo(scale_dtype)
    return np.float32(info.tiny), np.float32(min(float(info.max), 2.0**126))
