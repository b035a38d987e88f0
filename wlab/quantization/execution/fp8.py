"""Products of 8-bit floats: inputs rounded to e4m3 row by row, weights in e4m3 or e5m2.

GPUs and TPUs that have such products are handed the codes; elsewhere the numbers they stand for are
multiplied in float32, which gives the same up to the order of sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from wlab.quantization.execution.w8a8 import dot_rows, largest
from wlab.quantization.formats import Grid
from wlab.quantization.grids import Fit
from wlab.quantization.presets import fp8_e4m3, fp8_e5m2

INPUTS = fp8_e4m3().grid
DTYPES: Mapping[Grid, Any] = {INPUTS: jnp.float8_e4m3fn, fp8_e5m2().grid: jnp.float8_e5m2}
_LEAST = np.float32(2.0**-117)  # _LEAST / 448 is no subnormal number


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fp8Rows:
    """A matrix as `fp8_matmul` reads it: value = code · scale.

    Attributes:
        codes: float8_e4m3fn or float8_e5m2 of shape (outputs, inputs); axes of loops are in front.
        scale: float32 of shape (outputs,).
        level: The magnitude at which inputs saturate, a float32 scalar; None: each row's largest.
    """

    codes: Any
    scale: Any
    level: Any


def fp8_rows(
    bits: UInt8[Array, "*stack k n"],
    scale: Float[Array, "*stack 1 n"],
    grid: Grid,
    level: Float[Array, "*stack"] | None = None,
) -> Fp8Rows:
    """Lays out a matrix of inputs by outputs.

    Args:
        bits: The patterns of the numbers.
        scale: Of an output.
        grid: Of the numbers, one of `DTYPES`.
        level: See `Fp8Rows`.
    """
    codes = jax.lax.bitcast_convert_type(bits.swapaxes(-1, -2), DTYPES[grid])
    return Fp8Rows(codes, scale[..., 0, :].astype(jnp.float32), level)


def fp8_inputs(
    x: Float[Array, "m k"], level: Float[Array, ""] | None = None
) -> tuple[Float[Array, "m k"], Float[Array, "m 1"]]:
    r"""Each row as numbers of e4m3, half to even, and what they are to be multiplied with.

    $q = \mathrm{e4m3}(x \cdot 448 / a)$ with scale a / 448, where a is the row's largest magnitude,
    or the level, beyond which numbers saturate. What is not finite is as in `quantize_inputs`.
    """
    x = x.astype(jnp.float32)
    scale = largest(x, level, _LEAST) * np.float32(1 / INPUTS.steps)
    codes = INPUTS.encode(x, Fit(jnp.broadcast_to(scale, x.shape), None))
    bits = jnp.where(jnp.isnan(codes), 0, codes).astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(bits, DTYPES[INPUTS]), scale


@jax.custom_jvp
def fp8_matmul(x: Float[Array, "m k"], weight: Fp8Rows) -> Float[Array, "m n"]:
    r"""x W with both in 8-bit floats: $y = s_x \, s_w \, (q_x \cdot q_w)$, summed in float32.

    Differentiable in x, as if x had not been rounded: with the weights' values as slope.

    Reference:
        Micikevicius et al. 2022 (arXiv:2209.05433), section 3.
    """
    codes, scale = fp8_inputs(x, weight.level)
    sums = jax.lax.platform_dependent(codes, weight.codes, cpu=_widened, default=_dot)
    return sums * weight.scale[None] * scale


@fp8_matmul.defjvp
def _fp8_matmul_jvp(primals, tangents):
    x, weight = primals
    values = weight.codes.astype(jnp.float32) * weight.scale[:, None]
    slope = jnp.dot(tangents[0].astype(jnp.float32), values.T)
    return fp8_matmul(x, weight), slope


def _widened(rows: Array, weights: Array) -> Array:
    return _dot(rows.astype(jnp.float32), weights.astype(jnp.float32))


_dot = partial(dot_rows, dtype=jnp.float32)
