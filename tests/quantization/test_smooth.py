"""SmoothQuant: the function stays, and the ranges are those of the formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import graph, tree
from wlab.models.llama import LlamaConfig, llama
from wlab.quantization.smooth import smooth, smoothing


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mlp(params: Any, x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["up"] + params["bias"][None])
    return hidden @ params["down"] + hidden @ params["beside"]


def mlp_params() -> dict[str, jax.Array]:
    """The hidden units 2 and 5 are fifty times as large as the others."""
    loud = jnp.ones(8).at[jnp.array([2, 5])].set(50)
    params = {"up": normal(6, 8) * loud[None], "bias": normal(8, seed=1) * loud}
    return params | {"down": normal(8, 4, seed=2), "beside": normal(8, 4, seed=3)}


BATCHES = [(normal(16, 6, seed=i),) for i in (4, 5)]
RULES = [("down|beside", True), (".*", False)]


def hidden(params: Any) -> np.ndarray:
    x = np.concatenate([np.asarray(x, np.float64) for (x,) in BATCHES])
    up, bias = (np.asarray(params[name], np.float64) for name in ("up", "bias"))
    return np.maximum(x @ up + bias, 0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_factors_are_those_of_the_formula_and_the_function_stays(alpha: float):
    params = mlp_params()
    found = smooth(mlp, params, BATCHES, RULES, alpha=alpha)
    read = graph.read(mlp, params, *BATCHES[0])
    assert graph.apart(read, params, found.params, *BATCHES[0]) < 1e-6
    weights = np.abs(np.concatenate([params["down"], params["beside"]], 1)).max(1)
    expected = np.abs(hidden(params)).max(0) ** alpha / weights ** (1 - alpha)
    np.testing.assert_allclose(found.scales["down"], expected, rtol=1e-5)
    np.testing.assert_allclose(found.scales["beside"], expected, rtol=1e-5)
    np.testing.assert_allclose(found.params["down"], params["down"] * expected[:, None], rtol=1e-5)
    np.testing.assert_allclose(hidden(found.params), hidden(params) / expected, rtol=1e-5)
    assert found.unmoved == {}


def test_halfway_inputs_and_weights_have_the_same_ranges():
    found = smooth(mlp, mlp_params(), BATCHES, RULES).params
    weights = np.abs(np.concatenate([found["down"], found["beside"]], 1)).max(1)
    np.testing.assert_allclose(np.abs(hidden(found)).max(0), weights, rtol=1e-5)


def test_eight_bits_a_tensor_lose_less_after_it():
    def eight_bits(x: Any) -> np.ndarray:
        step = np.abs(x).max() / 127
        return np.round(np.asarray(x, np.float64) / step) * step

    def error(params: Any) -> float:
        x, w = hidden(params), np.asarray(params["down"], np.float64)
        return float(np.linalg.norm(eight_bits(x) @ eight_bits(w) - x @ w) / np.linalg.norm(x @ w))

    rng = np.random.default_rng(0)
    loud = np.ones(64)
    loud[:2] = 100
    params = {
        "up": jnp.asarray(rng.normal(size=(6, 64)) * loud, jnp.float32),
        "bias": jnp.zeros(64),
        "down": jnp.asarray(rng.normal(size=(64, 4)) / loud[:, None], jnp.float32),
        "beside": jnp.zeros((64, 4)),
    }
    assert error(smooth(mlp, params, BATCHES, RULES).params) < 0.3 * error(params)


def test_inputs_that_are_never_there_stay():
    params = mlp_params()
    params["bias"] = params["bias"].at[3].set(-1000)
    found = smooth(mlp, params, BATCHES, RULES)
    assert found.scales["down"][3] == 1
    np.testing.assert_array_equal(found.params["up"][:, 3], params["up"][:, 3])
    np.testing.assert_array_equal(smoothing(np.zeros(2), np.ones(2), 0.5), np.ones(2))


def test_a_decoder_stays_what_it_is():
    """The norms' scales, the values and the upper half of the gate carry what was divided."""
    config = LlamaConfig(layers=1, width=16, heads=4, kv_heads=2, ffn=16, vocab=11, context=6)
    model = llama(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = tree.map_leaves(lambda p, x: 0.3 * normal(*x.shape, seed=len(p)) + 0.1, shapes)
    batches = [(jnp.arange(12).reshape(2, 6) % 11,)]
    found = smooth(model.apply, params, batches, [(".*kernel", True), (".*", False)])
    assert found.unmoved == {} and len(found.scales) == 7
    assert (
        graph.apart(graph.read(model.apply, params, *batches[0]), params, found.params, *batches[0])
        < 1e-5
    )
    changed = {
        p for p, x in tree.leaves(found.params).items() if (x != tree.leaves(params)[p]).any()
    }
    assert changed == {*tree.paths(params)} - {"embed/embedding", "norm/scale"}


def test_what_nothing_can_carry_is_told():
    found = smooth(mlp, mlp_params(), BATCHES, [("up|down", True), (".*", False)])
    assert "input of the function" in found.unmoved["up"] and {*found.unmoved} == {"up"}
    curved = smooth(
        lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"],
        {k: mlp_params()[k] for k in ("up", "down")},
        BATCHES,
        [("down", True), (".*", False)],
    )
    assert "tanh" in curved.unmoved["down"] and not curved.scales


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"a part of the difficulty, 0 to 1; got 1\.5"):
        smooth(mlp, mlp_params(), BATCHES, RULES, alpha=1.5)
    with pytest.raises(ValueError, match="select none"):
        smooth(mlp, mlp_params(), BATCHES, [(".*", False)])
    with pytest.raises(TypeError, match="list of tuples"):
        smooth(mlp, mlp_params(), [normal(16, 6)], RULES)
