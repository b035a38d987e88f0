"""After LSUV every layer's outputs have variance one, whatever the layers are."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab.initializers import lsuv, normal, orthogonal, reinit, uniform

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "linear": lambda x: x}


def dense_outputs(activations):
    """A net of dense layers; `block_10` stands after `block_9`, though not in the alphabet."""

    def outputs(params, x):
        found = {}
        for index, name in enumerate(activations):
            layer = params[f"block_{index}"]
            y = x @ layer["kernel"] + layer["bias"][None]
            found[f"block_{index}/kernel"] = y
            x = ACTIVATIONS[name](y)
        return found

    return outputs


def dense_params(widths, init, key, dtype=jnp.float32):
    shapes = {
        f"block_{index}": {
            "kernel": jax.ShapeDtypeStruct((n_in, n_out), dtype),
            "bias": jax.ShapeDtypeStruct((n_out,), dtype),
        }
        for index, (n_in, n_out) in enumerate(pairwise(widths))
    }
    return reinit(shapes, [(".*/kernel", init), (".*/bias", normal(0.01))], key)


@settings(max_examples=5, deadline=None)
@given(
    activations=st.lists(st.sampled_from(sorted(ACTIVATIONS)), min_size=1, max_size=6),
    std=st.sampled_from([1e-3, 0.1, 3.0]),
    seed=st.integers(0, 99),
)
def test_every_layer_of_any_list_has_unit_variance(activations, std, seed):
    key = jax.random.key(seed, impl="rbg")
    params = dense_params([12] * (len(activations) + 1), normal(std), key)
    x = jax.random.normal(key, (64, 12))
    outputs = dense_outputs(activations)
    scaled, info = lsuv(outputs, params, x, tolerance=0.02, max_iterations=50)
    for path, y in outputs(scaled, x).items():
        assert abs(np.var(y) - 1) <= 0.02 + 1e-4, path
        np.testing.assert_allclose(info.variances[path], np.var(y), rtol=1e-4)


def test_twelve_linear_layers_take_one_scaling_each_in_order_of_computation(key):
    params = dense_params([16] * 13, orthogonal(gain=0.3), key)
    params = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else 0 * leaf, params)
    x = jax.random.normal(key, (128, 16))
    outputs = dense_outputs(["linear"] * 12)
    scaled, info = jax.jit(lambda p: lsuv(outputs, p, x))(params)
    assert [int(n) for n in info.iterations.values()] == [1] * 12
    np.testing.assert_allclose([np.var(y) for y in outputs(scaled, x).values()], 1, atol=0.01)
    ratio = scaled["block_5"]["kernel"] / params["block_5"]["kernel"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_convolutions_and_low_precision(key):
    shapes = {"a": jax.ShapeDtypeStruct((3, 4, 8), jnp.bfloat16)}
    shapes["b"] = jax.ShapeDtypeStruct((3, 8, 8), jnp.bfloat16)
    params = reinit(shapes, [(".*", uniform(1.0))], key)

    def outputs(params, x):
        def conv(x, kernel):
            return jax.lax.conv_general_dilated(
                x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )

        a = conv(x, params["a"])
        return {"a": a, "b": conv(jax.nn.relu(a), params["b"])}

    x = jax.random.normal(key, (8, 16, 4), jnp.bfloat16)
    scaled, info = lsuv(outputs, params, x, tolerance=0.02)
    assert jax.tree.map(lambda leaf: leaf.dtype, scaled) == {"a": jnp.bfloat16, "b": jnp.bfloat16}
    np.testing.assert_allclose(list(info.variances.values()), 1, atol=0.02)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_spread_over_eight_devices_gives_the_same_scales(axis_type, key):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    params, outputs = dense_params([4, 4, 4], uniform(1.0), key), dense_outputs(["relu"] * 2)
    x = jax.random.normal(key, (64, 4))
    alone, _ = lsuv(outputs, params, x)
    with jax.set_mesh(mesh):
        spread, _ = lsuv(outputs, params, jax.device_put(x, NamedSharding(mesh, P("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), spread, alone)


def test_dead_layers_are_left_alone_and_show(key):
    params = {"dead": jnp.zeros((4, 4)), "live": 5 * jnp.eye(4)}
    x = jax.random.normal(key, (256, 4))
    outputs = lambda p, x: {"dead": x @ p["dead"], "live": x @ p["live"]}  # noqa: E731
    scaled, info = lsuv(outputs, params, x)
    np.testing.assert_array_equal(scaled["dead"], 0)
    assert (float(info.variances["dead"]), int(info.iterations["dead"])) == (0, 0)
    assert abs(float(info.variances["live"]) - 1) < 0.01


def test_a_layer_that_cannot_reach_one_stops_at_the_limit_and_others_go_on(key):
    params = {"stuck": jnp.ones((4, 4)), "live": 5 * jnp.eye(4)}
    x = jax.random.normal(key, (256, 4))
    outputs = lambda p, x: {"stuck": jnp.sin(1e4 * x) * 3, "live": x @ p["live"]}  # noqa: E731
    _, info = lsuv(outputs, params, x, max_iterations=3)
    assert int(info.iterations["stuck"]) == 3
    assert abs(float(info.variances["live"]) - 1) < 0.01


def test_bad_input_is_refused_by_name():
    params, x = {"a": jnp.eye(2)}, jnp.ones((2, 2))
    with pytest.raises(ValueError, match=r"must name leaves of params, such as \['a'\].*'b'"):
        lsuv(lambda p, x: {"b": x}, params, x)
    with pytest.raises(ValueError, match="at least one"):
        lsuv(lambda p, x: {}, params, x)
    with pytest.raises(ValueError, match="must be positive"):
        lsuv(lambda p, x: {"a": x}, params, x, tolerance=0.0)
