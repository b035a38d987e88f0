"""AWQ against a twin in NumPy, and against what must be true of any network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import graph, tree
from wlab.models.llama import LlamaConfig, llama
from wlab.quantization import int3, int4, round_to_grid
from wlab.quantization.awq import AWQ, awq
from wlab.quantization.awq_core import Reader, awq_clip, awq_scale, scale_of

INPUTS = 24


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs that are correlated, of which three are thirty times as large."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, INPUTS)) @ (np.eye(INPUTS) + rng.normal(size=(INPUTS, INPUTS)) / 8)
    x[:, [3, 11, 20]] *= 30
    return rng.normal(size=(INPUTS, 10)).astype(np.float32), x.astype(np.float32)


def nearest(w: np.ndarray, bits: int, size: int) -> np.ndarray:
    """Symmetric codes in groups of inputs, rounded to the nearest."""
    top, found = 2 ** (bits - 1) - 1, np.empty_like(w)
    for i in range(0, len(w), size):
        step = np.abs(w[i : i + size]).max(0) / top
        found[i : i + size] = np.round(w[i : i + size] / step) * step
    return found


def reader(w: np.ndarray, x: np.ndarray) -> Reader:
    rows = jnp.arange(1, INPUTS + 1)
    return Reader(*(jnp.asarray(each)[None] for each in (w, x.T @ x, rows)))


def test_losses_are_those_of_the_slow_twin():
    w, x = problem()
    v = np.roll(w, 1, axis=0)[:, :4]
    mean = np.abs(x.astype(np.float64)).mean(0)
    formats = (int4(group_size=8), int3())
    found = jax.jit(lambda a, b, m: awq_scale([a, b], formats, m))(
        reader(w, x), reader(v, x), jnp.asarray(mean, jnp.float32)
    )
    losses = []
    for i in range(20):
        s = (mean / mean.max()) ** (i / 20)
        s = (s / np.sqrt(s.max() * s.min()))[:, None]
        changes = [w - nearest(w * s, 4, 8) / s, v - nearest(v * s, 3, INPUTS) / s]
        losses.append(sum(np.sum((x.astype(np.float64) @ change) ** 2) for change in changes))
    # A weight halfway between two codes may fall either way.
    np.testing.assert_allclose(found.losses, losses, rtol=0.05)
    assert np.isclose(found.losses, losses, rtol=1e-3).mean() > 0.7
    np.testing.assert_allclose(found.power, np.argmin(losses) / 20, rtol=1e-6)
    scale = scale_of(jnp.asarray(mean, jnp.float32), found.power)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-6)


def test_it_is_never_worse_than_plain_rounding_by_its_own_measure():
    """The first power is 0, and there it is plain rounding."""
    run = jax.jit(lambda each, mean: awq_scale([each], [int3(group_size=8)], mean))
    for seed in range(5):
        w, x = np.asarray(normal(INPUTS, 6, seed=seed)), problem()[1]
        found = run(reader(w, x), jnp.abs(jnp.asarray(x)).mean(0))
        change = w.astype(np.float64) - nearest(w, 3, 8)
        np.testing.assert_allclose(found.losses[0], np.sum((x @ change) ** 2), rtol=0.02)
        assert found.losses.min() <= found.losses[0]


def test_inputs_without_a_factor_are_rounded_as_they_are():
    w, x = problem()
    each = reader(w, x)._replace(rows=jnp.zeros((1, INPUTS), jnp.int32))
    found = jax.jit(lambda m: awq_scale([each], [int4()], m))(jnp.linspace(1, 2, INPUTS))
    np.testing.assert_array_equal(found.losses, np.full(20, found.losses[0]))
    assert found.power == 0


def test_factors_are_one_over_each_other_at_the_ends_and_bounded():
    s = scale_of(jnp.array([0.0, 1.0, 100.0]), jnp.float32(0.5))
    np.testing.assert_allclose(s, np.array([0.01, 0.1, 1]) / 0.1, rtol=1e-5)
    np.testing.assert_array_equal(scale_of(jnp.zeros(3), jnp.float32(0.5)), np.ones(3))


def test_clipping_is_that_of_the_slow_twin_or_none_where_that_is_better():
    w, x = problem()
    w[5, :3] = 8  # large weights of inputs that are small
    gram = x.astype(np.float64).T @ x
    found = jax.jit(lambda w, g: awq_clip(w, g, int3(group_size=8)))(w, jnp.float32(gram))
    expected = w.copy()
    for i in range(0, INPUTS, 8):
        rows, top = slice(i, i + 8), np.abs(w[i : i + 8]).max(0)
        cuts = [np.clip(w[rows], -top * f, top * f) for f in 1 - np.arange(10) / 20]
        changes = [w[rows] - nearest(cut, 3, 8) for cut in cuts]
        lost = [np.sum(change * (gram[rows, rows] @ change), 0) for change in changes]
        for j, best in enumerate(np.argmin(lost, 0)):
            expected[rows, j] = cuts[best][:, j]

    def energy(cut: Any) -> float:
        return float(np.sum((x @ (w - nearest(np.asarray(cut), 3, 8)).astype(np.float64)) ** 2))

    assert energy(expected) < energy(w)  # else nothing would be clipped
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_clipping_never_loses_more_over_all_inputs(seed: int):
    """Though each block is searched by itself, and what blocks lose is correlated."""
    run = jax.jit(lambda w, g: awq_clip(w, g, int3(group_size=8)))
    w, x = np.asarray(normal(INPUTS, 6, seed=seed)), np.asarray(normal(30, 3, seed=seed + 9))
    x = x @ np.asarray(normal(3, INPUTS, seed=seed + 20))
    found = np.asarray(run(w, x.T @ x))
    lost = [np.sum((x @ (w - nearest(cut, 3, 8)).astype(np.float64)) ** 2) for cut in (w, found)]
    assert lost[1] <= lost[0] * 1.001


def mlp(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["up"]) @ params["down"]


LOUD = np.ones(48)
LOUD[[1, 17, 40]] = 30
PARAMS = {"up": normal(8, 48) * LOUD.astype(np.float32)[None], "down": normal(48, 6, seed=1)}
BATCHES = [(normal(64, 8, seed=i),) for i in (2, 3)]
RULES = [("down", int3(group_size=16)), (".*", None)]


def output_error(params: Any) -> float:
    x = BATCHES[0][0]
    good = np.asarray(mlp(PARAMS, x))
    return float(np.linalg.norm(np.asarray(mlp(params, x)) - good) / np.linalg.norm(good))


def test_a_network_with_loud_channels_loses_less_than_by_plain_rounding():
    plain = {**PARAMS, "down": round_to_grid(PARAMS["down"], int3(group_size=16))}
    found = awq(mlp, PARAMS, BATCHES, RULES)
    assert output_error(found.params) < 0.6 * output_error(plain)
    assert found.powers["down"][0] > 0 and not found.unmoved
    clipped = awq(mlp, PARAMS, BATCHES, RULES, clip=True)
    assert clipped.losses["down"] <= found.losses["down"]


def test_it_tells_the_truth():
    """Values are codes of scaled weights, the divided leaf makes up for it, the loss is that."""
    found = awq(mlp, PARAMS, BATCHES, RULES)
    s = np.asarray(found.scales["down"])
    np.testing.assert_allclose(found.params["up"], np.asarray(PARAMS["up"]) / s, rtol=1e-6)
    scaled = PARAMS["down"] * jnp.asarray(s)[:, None]
    expected = jax.jit(lambda w: round_to_grid(w, int3(group_size=16)))(scaled)
    np.testing.assert_allclose(found.params["down"], expected, rtol=1e-5)
    ((channels, factors),) = found.moved
    before = graph.rescale(PARAMS, channels, factors)
    np.testing.assert_allclose(before["down"], scaled, rtol=1e-6)
    np.testing.assert_array_equal(before["up"], found.params["up"])
    x = np.concatenate([np.asarray(x, np.float64) for (x,) in BATCHES])
    hidden = np.maximum(x @ (np.asarray(PARAMS["up"], np.float64) / s), 0)
    lost = hidden @ np.asarray(scaled - found.params["down"], np.float64)
    had = hidden @ np.asarray(scaled, np.float64)
    np.testing.assert_allclose(found.losses["down"], (lost**2).sum() / (had**2).sum(), rtol=1e-3)


def test_without_a_carrier_it_is_plain_rounding_and_says_why():
    def curved(params: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["up"]) @ params["down"]

    found = awq(curved, PARAMS, BATCHES, [(".*", int4())])
    plain = jax.jit(lambda p: jax.tree.map(lambda w: round_to_grid(w, int4()), p))(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, found.params, plain)
    assert "tanh" in found.unmoved["down"] and "input of the function" in found.unmoved["up"]
    assert not found.scales and not found.powers


def test_what_was_rounded_before_is_not_scaled_any_more():
    found = awq(mlp, PARAMS, BATCHES, [(".*", int4())], stages=("up", "down"))
    assert "'up', which would have to be scaled, was rounded" in found.unmoved["down"]
    together = awq(mlp, PARAMS, BATCHES, [(".*", int4())])
    assert {*together.unmoved} == {"up"} and {*together.scales} == {"down"}


@pytest.mark.long
def test_each_layer_of_a_loop_has_a_power_of_its_own():
    def network(params: Any, x: jax.Array) -> jax.Array:
        def turn(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
            return x + jax.nn.relu(x @ layer["up"]) @ layer["down"], None

        return jax.lax.scan(turn, x, params)[0]

    quiet = normal(8, 48, seed=4)
    params = {"up": jnp.stack([PARAMS["up"], quiet]), "down": normal(2, 48, 8, seed=5)}
    found = awq(network, params, BATCHES, [("down", int3()), (".*", None)])
    assert found.scales["down"].shape == (2, 48) and len(found.powers["down"]) == 2
    assert found.powers["down"][0] != found.powers["down"][1]
    assert found.matrices["down"].codes.shape[0] == 2
    first = jax.tree.map(lambda x: x[:1], params)
    alone = awq(network, first, BATCHES, [("down", int3()), (".*", None)])
    np.testing.assert_allclose(alone.params["down"][0], found.params["down"][0], rtol=1e-5)


@pytest.fixture(scope="module")
def decoder() -> tuple[Any, Any, list[Any], AWQ]:
    config = LlamaConfig(layers=1, width=16, heads=4, kv_heads=2, ffn=16, vocab=11, context=6)
    model = llama(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = tree.map_leaves(lambda p, x: 0.3 * normal(*x.shape, seed=len(p)) + 0.1, shapes)
    batches = [(jnp.arange(12).reshape(2, 6) % 11,)]
    rules = [(r"block_\d+/(attn/[qkvo]|gate|up|down)/kernel", int4(group_size=8)), (".*", None)]
    return model.apply, params, batches, awq(model.apply, params, batches, rules)


@pytest.mark.long
def test_every_kernel_of_a_decoder_has_a_carrier(decoder: Any):
    fn, params, batches, found = decoder
    assert not found.unmoved and len(found.scales) == len(found.matrices) == 7
    for a, b in (("attn/q", "attn/k"), ("attn/q", "attn/v"), ("gate", "up")):
        one, other = (found.scales[f"block_0/{name}/kernel"] for name in (a, b))
        np.testing.assert_array_equal(one, other)
    o = found.scales["block_0/attn/o/kernel"].reshape(2, 2, 4)  # key heads, heads of each, entries
    np.testing.assert_array_equal(o[:, 0], o[:, 1])
    read = graph.read(fn, params, *batches[0])
    unrounded = params
    for one in graph.scalings(read, found.scales).found:
        rows = graph.rows(one, next(use for use in read.of(one.path)))
        s = np.ones(one.size + 1, np.float32)
        s[rows] = found.scales[one.path]
        unrounded = graph.rescale(unrounded, one, jnp.asarray(s[1:]))
    assert graph.apart(read, params, unrounded, *batches[0]) < 1e-5
    for path, norm in tree.leaves(unrounded).items():
        if path not in found.matrices:
            np.testing.assert_allclose(tree.leaves(found.params)[path], norm, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="grid is a number of powers"):
        awq(mlp, PARAMS, BATCHES, RULES, grid=0)
    with pytest.raises(ValueError, match="select none"):
        awq(mlp, PARAMS, BATCHES, [(".*", None)])
    with pytest.raises(ValueError, match="scales along axis -2"):
        awq(mlp, PARAMS, BATCHES, [(".*", int4(axis=None))], clip=True)
    with pytest.raises(ValueError, match="'bias' is in no product"):
        awq(
            lambda p, x: mlp(p, x) + p["bias"][None],
            {**PARAMS, "bias": jnp.zeros(6)},
            BATCHES,
            [(".*", int4())],
        )
    with pytest.raises(TypeError, match="list of tuples"):
        awq(mlp, PARAMS, [normal(64, 8)], RULES)
