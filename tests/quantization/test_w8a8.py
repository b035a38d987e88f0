"""Integer products against NumPy in 64-bit integers, and what is rounded of the inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import calibration, graph, quantization
from wlab.quantization import Clip, int4, int8, levels_of
from wlab.quantization.execution.running import executable
from wlab.quantization.execution.w8a8 import int8_matmul, int8_rows, quantize_inputs


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantize_tree(params, rules):
    return jax.jit(lambda params: quantization.quantize_tree(params, rules))(params)


def codes_of(x, level=None):
    """Rows of codes and their steps, in NumPy's float32."""
    top = np.abs(x).max(1, keepdims=True) if level is None else np.full((len(x), 1), level)
    top = np.maximum(top.astype(np.float32), np.float32(2.0**-119))
    codes = np.clip(np.rint(x * (np.float32(127) / top)), -127, 127)
    return codes.astype(np.int64), top * np.float32(1 / 127)


def twin(x, codes, scale, level=None):
    """Sums in 64-bit integers, group by group."""
    rows, step = codes_of(x, level)
    size, sums = -(-codes.shape[0] // len(scale)), 0
    for g, width in enumerate(scale):
        part = slice(g * size, (g + 1) * size)
        sums = sums + (rows[:, part] @ codes[part]).astype(np.float64) * width
    return sums * step


@pytest.mark.parametrize("level", [None, 1.5])
@pytest.mark.parametrize("rows", [1, 5])
def test_the_integer_part_is_exact(rows, level):
    x, codes = numbers(rows, 70), np.random.default_rng(1).integers(-128, 128, (70, 24))
    weight = int8_rows(jnp.asarray(codes, jnp.int32), jnp.ones((1, 24)), _array(level))
    q, step = jax.jit(quantize_inputs)(x, _array(level))
    expected, width = codes_of(x, level)
    np.testing.assert_array_equal(q, expected)
    np.testing.assert_array_equal(step, width)
    found = jax.jit(int8_matmul)(x, weight)
    sums = (expected @ codes).astype(np.float32)  # below 2^24: exact
    np.testing.assert_array_equal(found, sums * width)


def test_long_rows_do_not_overflow():
    x, codes = np.ones((2, 4096), np.float32), np.full((4096, 3), -128)
    weight = int8_rows(jnp.asarray(codes, jnp.int32), jnp.ones((1, 3)))
    np.testing.assert_allclose(jax.jit(int8_matmul)(x, weight), -128.0 * 4096, rtol=1e-6)


@pytest.mark.parametrize(("inputs", "size"), [(64, 16), (70, 24)])
def test_groups_have_scales_of_their_own(inputs, size):
    q = quantize_tree({"w": jnp.asarray(numbers(inputs, 12))}, [("w", int4(group_size=size))])
    x = numbers(3, inputs, seed=2)
    made = executable(lambda p, x: x @ p["w"], q, x, rules=[("w", "w8a8")])
    laid = jax.jit(made.prepare)(q)["w"]
    groups = -(-inputs // size)
    assert made.ways == {"w": "w8a8"} and laid.codes.shape == (groups, 12, size)
    codes = np.zeros((groups * size, 12), np.int64)
    nibbles = np.asarray(q["w"].codes, np.int64)
    codes[:inputs, 0::2], codes[:inputs, 1::2] = nibbles % 16 - 8, nibbles // 16 - 8
    padded = np.pad(x, ((0, 0), (0, groups * size - inputs)))
    expected = twin(padded, codes, np.asarray(q["w"].scale, np.float64))
    found = jax.jit(made.apply)({"w": laid}, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_levels_from_calibration_are_static_ranges():
    params, batches = {"w": jnp.asarray(numbers(16, 8))}, [numbers(4, 16, seed=i) for i in (3, 4)]
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    found = calibration.collect(fn, params, [(x,) for x in batches], calibration.absmax())
    levels = levels_of(found, [("w", Clip(8, signed=True))])
    q = quantize_tree(params, [("w", int8())])
    made = executable(fn, q, batches[0], rules=[("w", "w8a8")], levels=levels)
    level = np.abs(batches).max()
    codes = np.asarray(q["w"].codes, np.int64) - 128
    x = np.concatenate([batches[0], 10 * batches[1]])  # the second half saturates
    expected = twin(x, codes, np.asarray(q["w"].scale, np.float64), level)
    np.testing.assert_allclose(jax.jit(made.apply)(made.prepare(q), x), expected, rtol=1e-5)


def test_rows_do_not_meet_one_another():
    weight = int8_rows(jnp.asarray(numbers(8, 4).astype(np.int32)), jnp.ones((1, 4)))
    x = numbers(4, 8)
    x[1], x[2, 3], x[3, 0] = 0, np.nan, np.inf
    found = np.asarray(jax.jit(int8_matmul)(x, weight))
    alone = np.asarray(jax.jit(int8_matmul)(x[:1], weight))
    np.testing.assert_array_equal(found[:1], alone)
    np.testing.assert_array_equal(found[1], 0)
    assert np.isnan(found[2:]).all()


def test_its_derivative_is_that_of_the_weights():
    codes, scale = numbers(8, 4).round() * 9, numbers(1, 4, seed=1)
    weight = int8_rows(jnp.asarray(codes.astype(np.int32)), jnp.asarray(scale))
    x, moved = numbers(3, 8, seed=2), numbers(3, 8, seed=3)
    _, pushed = jax.jit(lambda x, t: jax.jvp(lambda x: int8_matmul(x, weight), (x,), (t,)))(
        x, moved
    )
    np.testing.assert_allclose(pushed, moved @ (codes * scale), rtol=1e-4, atol=1e-4)


def test_one_weight_in_two_products_serves_both():
    params = {"w": jnp.asarray(numbers(8, 8))}
    fn = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]  # noqa: E731
    q, x = quantize_tree(params, [("w", int8())]), numbers(2, 8)
    made = executable(fn, q, x, rules=[("w", "w8a8")])
    assert made.ways == {"w": "w8a8"}
    assert len(graph.products(graph.read(fn, params, x))) == 2
    codes, scale = np.asarray(q["w"].codes, np.int64) - 128, np.asarray(q["w"].scale, np.float64)
    hidden = np.tanh(twin(x, codes, scale)).astype(np.float32)
    found = jax.jit(made.apply)(made.prepare(q), x)
    np.testing.assert_allclose(found, twin(hidden, codes, scale), rtol=0.02, atol=0.02)


def test_a_transposed_use_beside_the_plain_one_keeps_the_weights_meaning():
    fn = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T  # noqa: E731
    q, x = quantize_tree({"w": jnp.asarray(numbers(8, 8))}, [("w", int8())]), numbers(2, 8)
    assert executable(fn, q, x, rules=[("w", "w8a8")]).ways == {"w": "weight_only"}


def _array(level):
    return None if level is None else jnp.float32(level)
