"""Moments in few bits written out in NumPy, and what the tests of moments share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wlab.quantization.moment_arrays import dequantize_moment, quantize_moment

write = jax.jit(quantize_moment, static_argnums=1)
compiled_read = jax.jit(dequantize_moment, static_argnums=(1, 2))


def read_back(coded, moment, shape):
    return compiled_read(coded, moment, jax.ShapeDtypeStruct(shape, jnp.float32))


SMALL: dict[str, Any] = {"block_size": 16, "min_size": 64}


def relaxed(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax itself mixes dtypes and ranks; the strict test settings are for our code."""

    def inside(f: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                return f(*args)

        return run

    return optax.GradientTransformation(inside(tx.init), inside(tx.update))


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def spanning_decades(shape, *, signed, seed=0):
    """Entries from 1e-9 to 1e3, some of them zero."""
    rng = np.random.default_rng(seed)
    x = 10.0 ** rng.uniform(-9, 3, shape) * (rng.random(shape) > 0.2)
    return (x * rng.choice([-1, 1], shape) if signed else x).astype(np.float32)


def twin(x, *, bits, root, block, values=None, signed=True):
    """(codes, scales, what is read) of blocks along the last axis, in NumPy."""
    x = np.asarray(x, np.float32)
    u = np.abs(x)
    for _ in range({1: 0, 2: 1, 4: 2}[root]):
        u = np.sqrt(u)
    u = np.copysign(u, x)
    codes, read = np.zeros(x.shape, np.int64), np.zeros_like(x)
    scales = np.zeros((*x.shape[:-1], -(-x.shape[-1] // block)), np.float32)
    top = 1.0 if values is not None else 2 ** (bits - 1) - 1.0 if signed else 2.0**bits - 1
    for row in np.ndindex(*x.shape[:-1]):
        for b, start in enumerate(range(0, x.shape[-1], block)):
            at = (*row, slice(start, start + block))
            scale = sixteen_bits(np.abs(u[at]).max() * np.float32(1 / top))
            y = u[at] * (np.float32(1) / scale)
            scales[(*row, b)] = scale
            if values is not None:
                table = np.asarray(values, np.float32)
                middles = ((table[1:].astype(float) + table[:-1]) / 2).astype(np.float32)
                codes[at] = np.searchsorted(middles, y, side="left")
                v = table[codes[at]] * scale
            else:
                steps = np.rint(y) if signed else np.where(u[at] > 0, np.maximum(np.rint(y), 1), 0)
                codes[at] = steps + (2 ** (bits - 1) if signed else 0)
                v = steps.astype(np.float32) * scale
            for _ in range({1: 0, 2: 1, 4: 2}[root]):
                v = v * np.abs(v)
            read[at] = v
    return codes, scales, read


def sixteen_bits(scale):
    """The nearest number of 16 significant bits, at least the smallest normal one."""
    mantissa, exponent = np.frexp(np.float64(scale))
    return np.float32(max(np.ldexp(np.rint(mantissa * 2**16), exponent - 16), 2.0**-126))
