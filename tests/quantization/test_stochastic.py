"""Rounding by chance: unbiased, to a neighbour, by key and path."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab import quantization
from wlab.quantization import (
    Format,
    Integers,
    bfloat16,
    dequantize,
    fake_quant,
    fp4_e2m1,
    fp8_e4m3,
    ggml_q4_0,
    ggml_q4_1,
    int4,
    int8,
    nf4,
    nvfp4,
    ocp_mxfp4,
    quantize,
    quantize_tree,
)

round_to_grid = jax.jit(
    quantization.round_to_grid, static_argnames=("format", "gradient", "range_fn")
)
FORMATS = [
    int4(axis=-1),
    int4(axis=-1, symmetric=False),
    int8(axis=-1, group_size=16),
    fp8_e4m3(axis=-1),
    fp4_e2m1(axis=-1),
    nf4(axis=-1),
    bfloat16,
    ggml_q4_0,
    ggml_q4_1,
    ocp_mxfp4,
    nvfp4,
]


def weights(shape=(2, 32)):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_mean_is_the_weight_and_every_draw_is_one_of_two_neighbours(format):
    """The bound: 5 standard errors, and 2^-15 of a step, to which a fraction is drawn."""
    x, draws = weights(), 4000
    keys = jax.random.split(jax.random.key(0), draws)
    seen = jax.jit(jax.vmap(lambda k: quantization.round_to_grid(x, format, key=k)))(keys)
    seen = np.asarray(seen, np.float64)
    low, high = seen.min(0), seen.max(0)
    assert ((seen == low) | (seen == high)).all()
    inside = (low <= x) & (x <= high)
    assert inside.mean() > 0.9  # the others saturate
    grid = np.asarray(round_to_grid(x, format))
    assert ((grid == low) | (grid == high) | ~inside).all()
    bound = 5 * (high - low) / 2 / np.sqrt(draws) + (high - low) * 2.0**-15 + 1e-12
    assert (np.abs(seen.mean(0) - x) <= bound)[inside].all()
    assert (high > low).mean() > 0.5


def test_grid_points_and_zeros_stay_where_they_are():
    for format in (int4(), nf4(), fp8_e4m3(), ocp_mxfp4):
        once = round_to_grid(weights((32, 32)).at[0].set(0), format)
        again = round_to_grid(once, format, key=jax.random.key(3))
        np.testing.assert_allclose(again, once, rtol=1e-4)
        np.testing.assert_array_equal(again[0], 0)


@pytest.mark.parametrize("format", [int4(), fp8_e4m3(), nf4(), nvfp4, ggml_q4_1], ids=str)
def test_the_same_key_draws_the_same_whether_compiled_or_not_coded_or_seen(format):
    x, key = weights((32, 32)), jax.random.key(1)
    eager = quantization.round_to_grid(x, format, key=key)
    np.testing.assert_array_equal(round_to_grid(x, format, key=key), eager)
    coded = jax.jit(partial(quantize, format=format))(x, key=key)
    np.testing.assert_array_equal(dequantize(coded), eager)
    other = round_to_grid(x, format, key=jax.random.key(2))
    assert (np.asarray(other) != np.asarray(eager)).mean() > 0.05


def test_a_numpy_twin_draws_the_same():
    """Up where the fraction, in 65,536ths, is above the key's 16 bits."""
    x, key = weights((32, 8)), jax.random.key(4)
    format = Format(Integers(4))
    q = quantize(x, format, key=key)
    y = np.asarray(x) * (np.float32(1) / np.asarray(q.scale))
    noise = np.asarray(jax.random.bits(key, x.shape, jnp.uint16)).astype(np.int64)
    fixed = np.rint(y.astype(np.float64) * 65536).astype(np.int64)
    codes = np.clip((fixed // 65536) + (noise < fixed % 65536) + 8, 1, 15)
    np.testing.assert_array_equal(quantization.unpack(q.codes, 4, 8), codes)


def test_leaves_draw_apart_and_steps_draw_anew(key):
    x = weights((32, 8))
    params, rules = {"a": x, "b": x}, [(".*", int4())]
    tree = quantize_tree(params, rules, key=key)
    assert (np.asarray(tree["a"].codes) != np.asarray(tree["b"].codes)).any()
    alone = quantize_tree({"b": x}, rules, key=key)
    np.testing.assert_array_equal(alone["b"].codes, tree["b"].codes)

    t = fake_quant(int4(), [(".*", True)], stochastic=True)
    stored, state = t.init(params, key)
    view = jax.jit(t.view)
    first, again, later = view(stored, state, 0), view(stored, state, 0), view(stored, state, 1)
    np.testing.assert_array_equal(first["a"], again["a"])
    assert (np.asarray(first["a"]) != np.asarray(later["a"])).any()
    assert (np.asarray(first["a"]) != np.asarray(first["b"])).any()
    np.testing.assert_array_equal(t.finalize(stored, state)["a"], round_to_grid(x, int4()))


def test_the_gradient_is_that_of_plain_rounding(key):
    x = weights((32, 8))
    t = fake_quant(int4(), [(".*", True)], stochastic=True, begin=1)
    stored, state = t.init({"w": x}, key)
    grad = jax.grad(lambda s: jnp.sum(x * t.view(s, state, 5)["w"]))(stored)
    np.testing.assert_array_equal(grad["w"], x)
    np.testing.assert_array_equal(t.view(stored, state, 0)["w"], x)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_eight_devices_draw_as_one(axis_type):
    x, key = weights((128, 48)), jax.random.key(0)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    placed = jax.device_put(x, NamedSharding(mesh, P("d", None)))
    with jax.set_mesh(mesh):
        found = round_to_grid(placed, int4(group_size=16), key=key)
    np.testing.assert_array_equal(found, round_to_grid(x, int4(group_size=16), key=key))
    assert found.sharding.is_equivalent_to(placed.sharding, 2)
