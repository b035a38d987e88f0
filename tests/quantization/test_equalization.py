"""Cross-layer equalization: ranges agree afterwards, and the function is what it was."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import graph
from wlab.quantization.equalization import equalize, equalizing


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def deep(params: Any, x: jax.Array) -> jax.Array:
    for i in range(3):
        x = jax.nn.relu(x @ params[f"w{i}"] + params[f"b{i}"][None])
    return x @ params["w3"]


def deep_params() -> dict[str, jax.Array]:
    """Layers whose channels have ranges from 0.03 to 30."""
    rng = np.random.default_rng(0)
    params = {}
    for i, (n, m) in enumerate([(5, 8), (8, 6), (6, 7), (7, 4)]):
        spread = np.exp(rng.uniform(-3.5, 3.5, size=m))
        params[f"w{i}"] = jnp.asarray(rng.normal(size=(n, m)) * spread, jnp.float32)
        params[f"b{i}"] = jnp.asarray(rng.normal(size=m) * spread, jnp.float32)
    del params["b3"]
    return params


X = normal(9, 5, seed=7)


def test_ranges_agree_in_every_pair_of_layers_and_the_function_stays():
    params = deep_params()
    found = equalize(deep, params, X, tolerance=1e-5)
    for i in range(3):
        made = np.abs(np.asarray(found.params[f"w{i}"])).max(0)
        read = np.abs(np.asarray(found.params[f"w{i + 1}"])).max(1)
        np.testing.assert_allclose(made, read, rtol=1e-4)
    assert graph.apart(graph.read(deep, params, X), params, found.params, X) < 1e-5
    assert {*found.unmoved} == {"w0"} and 1 < found.rounds < 100


def test_two_layers_have_the_closed_form():
    params = {"u": normal(5, 8), "b": normal(8, seed=1), "v": normal(8, 3, seed=2)}
    params["v"] *= jnp.exp(normal(8, 1, seed=3))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(x @ p["u"] + p["b"][None]) @ p["v"]

    found = equalize(fn, params, X)
    u, b, v = (np.asarray(params[name], np.float64) for name in "ubv")
    r1, r2 = np.abs(u).max(0), np.abs(v).max(1)
    s = np.sqrt(r1 * r2) / r2
    np.testing.assert_allclose(found.scales["v"], s, rtol=1e-5)
    np.testing.assert_allclose(found.params["u"], u / s, rtol=1e-5)
    np.testing.assert_allclose(found.params["b"], b / s, rtol=1e-5)
    np.testing.assert_allclose(found.params["v"], v * s[:, None], rtol=1e-5)
    assert found.rounds == 2  # the second has nothing left to do


def test_however_a_network_is_written_it_becomes_the_same():
    params = deep_params()
    read = graph.read(deep, params, X)
    other = params
    for path in ("w1", "w2", "w3"):
        one = graph.scaling(read, path)
        other = graph.rescale(other, one, jnp.exp(normal(one.size, seed=len(path))))
    a, b = (equalize(deep, p, X, tolerance=1e-6).params for p in (params, other))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), a, b)


def convolved(params: Any, x: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")

    def conv(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    x = jax.nn.relu(conv(x, params["a"], 1))
    x = jax.nn.relu(conv(x, params["depthwise"], 6))
    return jnp.mean(conv(x, params["c"], 1), (1, 2))


def test_convolutions_channel_by_channel():
    params = {"a": normal(3, 3, 2, 6), "depthwise": normal(3, 3, 1, 6), "c": normal(1, 1, 6, 3)}
    params["depthwise"] *= jnp.exp(2 * normal(1, 1, 1, 6, seed=5))
    x = normal(2, 5, 5, 2)
    found = equalize(convolved, params, x, tolerance=1e-5)
    a, d, c = (np.abs(np.asarray(found.params[k])) for k in ("a", "depthwise", "c"))
    np.testing.assert_allclose(a.max((0, 1, 2)), d.max((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(d.max((0, 1, 2)), c.max((0, 1, 3)), rtol=1e-4)
    assert graph.apart(graph.read(convolved, params, x), params, found.params, x) < 1e-5


def test_channels_of_zeros_stay():
    params = deep_params()
    params["w0"] = params["w0"].at[:, 2].set(0)
    params["w2"] = params["w2"].at[4].set(0)
    found = equalize(deep, params, X)
    assert found.scales["w1"][2] == 1 and found.scales["w2"][4] == 1
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found.params))
    np.testing.assert_array_equal(equalizing(np.zeros(2), np.ones(2)), np.ones(2))


def test_what_stays_is_told():
    params = {"u": normal(5, 8), "g": jnp.ones(8), "v": normal(8, 3, seed=2), "w": normal(8, 3)}

    def fn(p: Any, x: jax.Array) -> jax.Array:
        y = x @ p["u"]
        normed = y / jnp.sqrt(jnp.mean(jnp.square(y), 1, keepdims=True)) * p["g"][None]
        return normed @ p["v"] + jax.nn.gelu(y, approximate=False) @ p["w"]

    found = equalize(fn, params, X, rules=[("[vw]", True), (".*", False)])
    assert "only g can carry factors of 'v'" in found.unmoved["v"]
    assert "erfc" in found.unmoved["w"] and {*found.unmoved} == {"v", "w"}
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="tolerance above 0"):
        equalize(deep, deep_params(), X, tolerance=0.0)
    with pytest.raises(ValueError, match="at least 1 round"):
        equalize(deep, deep_params(), X, rounds=0)
