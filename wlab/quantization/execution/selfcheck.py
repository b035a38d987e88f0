"""Whether this backend's compiler computes quantized products right: some versions do not.

XLA's CPU compiler of jaxlib 0.10 to 0.12 fuses a grouped product with the computation of its int8
operand, and then some of them come out wrong, without a word. Nothing here is of a form that was
seen to be wrong; this is how to know on a new version, or another machine.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab.quantization.arrays import dequantize, quantize
from wlab.quantization.execution.matmuls import tiled_matmul
from wlab.quantization.execution.w8a8 import Int8Rows, int8_matmul
from wlab.quantization.formats import int4
from wlab.quantization.qtensor import QTensor

REMEDY = 'set XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type=" before JAX starts'
WITHIN = 1e-4  # of the largest entry; what is wrong differs by 1e-2 and more
GROUPS, SIZE, ROWS, OUTPUTS = 4, 128, 16, 128

Form = tuple[Callable[..., jax.Array], np.ndarray, tuple[Any, ...]]  # compiled, expected, given


def verify_backend() -> tuple[str, ...]:
    """Compares compiled products with NumPy's; takes about a second, most of it to compile.

    Returns:
        The names of those forms that this backend gets wrong and no function here uses: "cast"
        (to int8 without rounding first) and "nibbles" (taken apart in int8). Beware of them in
        code of your own, or set the flag.

    Raises:
        RuntimeError: If one is wrong that is used here, naming the flag to set.
    """
    wrong = [name for name, form in used_forms().items() if not is_right(form)]
    if wrong:
        raise RuntimeError(
            f"{jax.default_backend()} computes {', '.join(wrong)} wrongly when compiled: {REMEDY}."
        )
    return tuple(name for name, form in other_forms().items() if not is_right(form))


def is_right(form: Form) -> bool:
    """Whether the compiled function gives what is expected."""
    fn, expected, given = form
    found = np.asarray(jax.jit(fn)(*given), np.float64)
    return bool(np.abs(found - expected).max() <= WITHIN * np.abs(expected).max())


def used_forms() -> Mapping[str, Form]:
    """The products of this package, with NumPy's answers."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, GROUPS * SIZE)).astype(np.float32)
    w = jnp.asarray(rng.standard_normal((GROUPS * SIZE, OUTPUTS)).astype(np.float32))
    q4 = jax.jit(lambda w: quantize(w, int4(group_size=SIZE)))(w)
    codes = rng.integers(-127, 128, (GROUPS, OUTPUTS, SIZE)).astype(np.int8)
    scale = rng.random((GROUPS, OUTPUTS)).astype(np.float32)
    whole = rng.integers(-127, 128, (ROWS, GROUPS, SIZE)).astype(np.float32)
    whole[:, 0, 0] = 127  # so that rows are codes already
    sums = np.einsum("mgk,gnk,gn->mn", *(a.astype(np.float64) for a in (whole, codes, scale)))
    rows = Int8Rows(jnp.asarray(codes), jnp.asarray(scale), None, GROUPS * SIZE)
    return {
        "the tiled product of int4": (_tiled, _expected(x, q4), (x, q4)),
        "the product of dequantized int4": (_dequantized, _expected(x, q4), (x, q4)),
        "the product of int8 rows": (int8_matmul, sums, (whole.reshape(ROWS, -1), rows)),
    }


def other_forms() -> Mapping[str, Form]:
    """Products that some versions get wrong."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, GROUPS, SIZE)).astype(np.float32)
    w = rng.uniform(-127, 127, (GROUPS, SIZE, OUTPUTS)).astype(np.float32)
    scale = rng.random((GROUPS, OUTPUTS)).astype(np.float32)
    packed = rng.integers(-128, 128, (GROUPS, SIZE // 2, OUTPUTS)).astype(np.int8)
    low, high = (packed.astype(np.int64) + 8) % 16 - 8, packed.astype(np.int64) >> 4
    both = np.concatenate([low, high], axis=1)

    def sums(w: np.ndarray) -> np.ndarray:
        return np.einsum("mgk,gkn,gn->mn", x.astype(np.float64), w, scale.astype(np.float64))

    return {
        "cast": (_cast, sums(np.trunc(w)), (x, w, scale)),
        "nibbles": (_nibbles, sums(both), (x, packed, scale)),
    }


def _expected(x: np.ndarray, q: QTensor) -> np.ndarray:
    return x.astype(np.float64) @ np.asarray(jax.jit(dequantize)(q), np.float64)


def _tiled(x: jax.Array, q: QTensor) -> jax.Array:
    return tiled_matmul(x, q, SIZE)


def _dequantized(x: jax.Array, q: QTensor) -> jax.Array:
    return jnp.dot(x, dequantize(q))


def _cast(x: jax.Array, w: jax.Array, scale: jax.Array) -> jax.Array:
    return _summed(jnp.einsum("mgk,gkn->gmn", x, w.astype(jnp.int8).astype(jnp.float32)), scale)


def _nibbles(x: jax.Array, packed: jax.Array, scale: jax.Array) -> jax.Array:
    low = jax.lax.shift_right_arithmetic(jax.lax.shift_left(packed, np.int8(4)), np.int8(4))
    high, half = jax.lax.shift_right_arithmetic(packed, np.int8(4)), SIZE // 2
    first = jnp.einsum("mgk,gkn->gmn", x[:, :, :half], low.astype(jnp.float32))
    last = jnp.einsum("mgk,gkn->gmn", x[:, :, half:], high.astype(jnp.float32))
    return _summed(first + last, scale)


def _summed(parts: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.sum(parts * scale[:, None, :], axis=0)
