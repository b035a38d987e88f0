"""Products of 8-bit floats against ml_dtypes' rounding and sums in float64."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from wlab.quantization import (
    Format,
    dequantize_tree,
    fp8_e4m3,
    fp8_e5m2,
    ocp_mxfp8_e4m3,
    quantize_tree,
)
from wlab.quantization.execution import fp8
from wlab.quantization.execution.fp8 import fp8_inputs, fp8_matmul
from wlab.quantization.execution.running import executable

W8A8 = [(".*", "w8a8")]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def matmul(params, x):
    return x @ params["w"]


def quantized(w: np.ndarray, format: Format):
    return jax.jit(lambda params: quantize_tree(params, [(".*", format)]))({"w": w})


def rounded(x: np.ndarray, level: float | None = None) -> np.ndarray:
    """Rows on the grid of e4m3, by ml_dtypes."""
    top = np.abs(x).max(1, keepdims=True) if level is None else np.float32(level)
    scale = np.maximum(top, np.float32(2.0**-117)) * np.float32(1 / 448)
    codes = np.clip(x * (np.float32(1) / scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float64) * scale


@pytest.mark.parametrize("level", [None, 1.5])
@pytest.mark.parametrize("format", [fp8_e4m3(), fp8_e5m2(scale_dtype="float16")], ids=str)
def test_both_are_rounded_and_the_sums_are_those_of_the_numbers(format: Format, level):
    x, q = numbers(5, 70), quantized(numbers(70, 24, seed=1), format)
    levels = None if level is None else {"w": jnp.float32(level)}
    made = executable(matmul, q, x, rules=W8A8, levels=levels)
    prepared = jax.jit(made.prepare)(q)
    assert made.ways == {"w": "w8a8"} and prepared["w"].codes.shape == (24, 70)
    assert prepared["w"].codes.dtype == fp8.DTYPES[format.grid]
    weights = np.asarray(dequantize_tree(q)["w"], np.float64)
    expected = rounded(x, level) @ weights
    found = jax.jit(made.apply)(prepared, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected - x @ weights).max() > 1e-2 * np.abs(expected).max()  # it was rounded


def test_the_product_of_codes_is_that_of_their_numbers():
    """What a GPU or TPU is handed, multiplied here in the way that this backend knows."""
    q = quantized(numbers(32, 8), fp8_e4m3())
    made = executable(matmul, q, numbers(3, 32), rules=W8A8)
    weight, (codes, _) = made.prepare(q)["w"], jax.jit(fp8_inputs)(numbers(3, 32))
    by_codes, by_numbers = (jax.jit(f)(codes, weight.codes) for f in (fp8._dot, fp8._widened))
    np.testing.assert_allclose(by_codes, by_numbers, rtol=1e-6, atol=1e-3)


def test_rows_do_not_meet_one_another():
    q, x = quantized(numbers(8, 4), fp8_e4m3()), numbers(4, 8)
    weight = executable(matmul, q, x, rules=W8A8).prepare(q)["w"]
    x[1], x[2, 3], x[3, 0] = 0, np.nan, np.inf
    found = np.asarray(jax.jit(fp8_matmul)(x, weight))
    np.testing.assert_array_equal(found[:1], jax.jit(fp8_matmul)(x[:1], weight))
    np.testing.assert_array_equal(found[1], 0)
    assert np.isnan(found[2:]).all()


def test_its_derivative_is_that_of_the_weights():
    q = quantized(numbers(8, 4), fp8_e4m3())
    made = executable(matmul, q, numbers(3, 8), rules=W8A8)
    prepared, moved = made.prepare(q), numbers(3, 8, seed=3)
    push = jax.jit(lambda x, t: jax.jvp(lambda x: made.apply(prepared, x), (x,), (t,))[1])
    wanted = moved @ np.asarray(dequantize_tree(q)["w"])
    np.testing.assert_allclose(push(numbers(3, 8), moved), wanted, rtol=1e-4, atol=1e-4)


def test_a_loop_over_layers_takes_them_and_groups_keep_the_weights_meaning():
    def stacked(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]

    x, q = numbers(2, 32), quantized(numbers(3, 32, 32) / 6, fp8_e4m3())
    made = executable(stacked, q, x, rules=W8A8)
    assert made.ways == {"w": "w8a8"}
    found = jax.jit(made.apply)(made.prepare(q), x)
    np.testing.assert_allclose(found, stacked(dequantize_tree(q), x), atol=0.1)
    grouped = quantized(numbers(32, 32), ocp_mxfp8_e4m3)
    plain = executable(lambda p, x: x @ p["w"].T, grouped, x, rules=W8A8)
    assert plain.ways == {"w": "weight_only"}
