"""Integer products: inputs rounded to int8 row by row, weights in int8, sums in int32.

On a CPU this is the only quantized product that is faster than float32: weights have to lie
outputs by inputs, and there have to be two rows or more.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8, Shaped

TOP = 127
_LEAST = np.float32(2.0**-119)  # 127 / _LEAST is still finite


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("codes", "scale", "level"),
    meta_fields=("inputs",),
)
@dataclass(frozen=True)
class Int8Rows:
    """A matrix as `int8_matmul` reads it: value = code · scale.

    Attributes:
        codes: int8 of shape (groups, outputs, inputs of a group), the last group filled up with
            zeros; axes of loops are in front.
        scale: float32 of shape (groups, outputs).
        level: The magnitude at which inputs saturate, a float32 scalar; None: each row's largest.
        inputs: Before the last group was filled up.
    """

    codes: Any
    scale: Any
    level: Any
    inputs: int


def int8_rows(
    codes: Int[Array, "*stack k n"],
    scale: Float[Array, "*stack groups n"],
    level: Float[Array, "*stack"] | None = None,
) -> Int8Rows:
    """Lays out a matrix of inputs by outputs.

    Args:
        codes: −128 … 127.
        scale: Of equal groups of inputs, but for a shorter last one.
        level: See `Int8Rows`.
    """
    *stack, k, n = codes.shape
    groups = scale.shape[-2]
    size = -(-k // groups)
    filled = jnp.pad(codes, [(0, 0)] * len(stack) + [(0, groups * size - k), (0, 0)])
    parts = filled.reshape(*stack, groups, size, n).swapaxes(-1, -2)
    return Int8Rows(parts.astype(jnp.int8), scale.astype(jnp.float32), level, k)


def quantize_inputs(
    x: Float[Array, "m k"], level: Float[Array, ""] | None = None
) -> tuple[Int8[Array, "m k"], Float[Array, "m 1"]]:
    r"""Each row as int8 codes and the width of a step.

    $q = \mathrm{clip}(\lfloor x \cdot 127/a \rceil, -127, 127)$ with step a / 127, where a is the
    row's largest magnitude, or the level. What is not finite makes its row NaN, unless a level is
    given, at which infinities saturate.
    """
    x = x.astype(jnp.float32)
    top = largest(x, level, _LEAST)
    codes = jnp.clip(jnp.round(x * (np.float32(TOP) / top)), -TOP, TOP)
    return codes.astype(jnp.int32).astype(jnp.int8), top * np.float32(1 / TOP)


def largest(
    x: Float[Array, "m k"], level: Float[Array, ""] | None, least: np.float32
) -> Float[Array, "m 1"]:
    """The magnitude at which each row saturates, not below `least`; NaN for a row with a NaN."""
    if level is None:
        top = jnp.max(jnp.abs(x), axis=1, keepdims=True, initial=0)
    else:
        top = jnp.broadcast_to(level, (x.shape[0], 1))
        top = jnp.where(jnp.any(jnp.isnan(x), axis=1, keepdims=True), jnp.nan, top)
    return jnp.maximum(top, least)


def int8_matmul(x: Float[Array, "m k"], weight: Int8Rows) -> Float[Array, "m n"]:
    r"""x W with both in int8: $y = s_x \sum_g s_g \, (q_x \cdot q_g)$, products summed in int32.

    Differentiable in x, as if x had not been rounded: with the weights' values as slope.

    Reference:
        Dettmers et al. 2022 (arXiv:2208.07339), section 2; Xiao et al. 2023 (arXiv:2211.10438).
    """
    return _product(x, weight.codes, weight.scale, weight.level)


@jax.custom_jvp
def _product(x: Array, codes: Array, scale: Array, level: Array | None) -> Array:
    m, (groups, n, size) = x.shape[0], codes.shape
    rows, step = quantize_inputs(x, level)
    rows = jnp.pad(rows, ((0, max(0, 2 - m)), (0, groups * size - x.shape[1])))
    if groups == 1:
        sums = dot_rows(rows, codes[0], jnp.int32).astype(jnp.float32) * scale
    else:
        parts = rows.reshape(rows.shape[0], groups, size).transpose(1, 0, 2)

        def add(sums: Array, given: tuple[Array, Array, Array]) -> tuple[Array, None]:
            part, weights, width = given
            return sums + dot_rows(part, weights, jnp.int32).astype(jnp.float32) * width[None], None

        none = jnp.zeros((rows.shape[0], n), jnp.float32)
        sums = jax.lax.scan(add, none, (parts, codes, scale))[0]
    return sums[:m] * step


@_product.defjvp
def _product_jvp(primals, tangents):
    x, codes, scale, level = primals
    groups, n, size = codes.shape
    values = (codes.astype(jnp.float32) * scale[:, :, None]).transpose(0, 2, 1)
    values = values.reshape(groups * size, n)[: x.shape[1]]
    slope = jnp.dot(tangents[0].astype(jnp.float32), values)
    return _product(x, codes, scale, level), slope


def dot_rows(rows: Shaped[Array, "m k"], weights: Shaped[Array, "n k"], dtype: Any) -> Array:
    """Rows times rows, (m, n), summed in a dtype."""
    numbers = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(rows, weights, numbers, preferred_element_type=dtype)
