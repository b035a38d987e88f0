"""Factors that move from leaf to leaf: the function stays, in every framework and by chance."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import program
from zoo import ZOO, net
from zoo_plain import Net, numbers

from wlab import graph, tree
from wlab.graph import Scaling, Scalings


def everything(of: Net) -> tuple[graph.Graph, Scalings]:
    fn, params, inputs = of
    read = graph.read(fn, params, *inputs)
    return read, graph.scalings(read, dict.fromkeys(path for path, _ in graph.products(read)))


def factors(found: Scaling, seed: int = 0) -> jax.Array:
    s = np.exp(np.random.default_rng(seed).normal(size=found.size))
    return jnp.asarray(s, jnp.float32)


def consumers_alone(params: Any, found: Scaling, s: jax.Array) -> Any:
    """The wrong thing: what reads the channels is multiplied, and nothing is divided."""
    only = Scaling(found.path, (), found.consumers, found.size, found.turns)
    return graph.rescale(params, only, s)


QUICK = ("plain mlp", "plain scan", "plain experts", "equinox mlp", "haiku mlp")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in ZOO]


@pytest.mark.parametrize("name", NAMES)
def test_networks_stay_what_they_are(name: str):
    fn, params, inputs = net(name)
    read, (found, _) = everything((fn, params, inputs))
    new = wrong = params
    for i, one in enumerate(found):
        new = graph.rescale(new, one, factors(one, i))
        wrong = consumers_alone(wrong, one, factors(one, i))
    assert graph.apart(read, params, new, *inputs) < 3e-6
    if found:
        assert graph.apart(read, params, wrong, *inputs) > 1e-2


RICH = (3, 8, 14, 30)
SEEDS = [pytest.param(i, marks=() if i in RICH else pytest.mark.long) for i in range(100)]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_functions_stay_what_they_are(seed: int):
    fn, params, inputs = program(seed)
    read, (found, _) = everything((fn, params, inputs))
    assert seed not in RICH or len(found) > 1
    new = params
    for i, one in enumerate(found):
        new = graph.rescale(new, one, factors(one, i))
    # A sum of what has no mean is rounding alone.
    is_zero = max(np.abs(x).max() for x in jax.tree.leaves(fn(params, *inputs))) < 1e-5
    assert seed not in RICH or not is_zero
    assert is_zero or graph.apart(read, params, new, *inputs) < 1e-4


def names(found: Scaling) -> tuple[list[str], list[str], int]:
    return [p.path for p in found.producers], [p.path for p in found.consumers], found.size


def of_llama(kv_heads: int) -> Scalings:
    from wlab.models.llama import LlamaConfig, llama

    config = LlamaConfig(
        layers=1, width=16, heads=4, kv_heads=kv_heads, ffn=24, vocab=11, context=6
    )
    model = llama(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    read = graph.read(model.apply, params, jnp.zeros((2, 6), jnp.int32))
    return graph.scalings(read, [path for path in tree.paths(params) if "kernel" in path])


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_decoder_has_the_four_places_that_are_known(kv_heads: int):
    """Values have a channel an entry of a key head, which the query heads of a group share."""
    found, refused = of_llama(kv_heads)
    q, k, v, o = (f"block_0/attn/{name}/kernel" for name in "qkvo")
    up, gate, down = (f"block_0/{name}/kernel" for name in ("up", "gate", "down"))
    assert [names(one) for one in found] == [
        (["block_0/norm_1/scale"], [k, q, v], 16),
        ([v], [o], 4 * kv_heads),
        (["block_0/norm_2/scale"], [gate, up], 16),
        ([up], [down], 24),
    ]
    assert not refused


def test_which_row_has_which_factor():
    """Head by head: four query heads of size 4 on two key heads."""
    (_, found, *_), _ = of_llama(2)
    o = found.factors("block_0/attn/o/kernel")
    np.testing.assert_array_equal(o[:, 0], [*range(1, 5), *range(1, 5), *range(5, 9), *range(5, 9)])
    v = found.factors("block_0/attn/v/kernel")
    np.testing.assert_array_equal(v, -np.arange(1, 9)[None])


def two_layers(between: Callable[[jax.Array], jax.Array]) -> Net:
    params = {"u": numbers((6, 8), 1), "b": numbers((8,), 2), "w": numbers((8, 4), 3)}

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return between(x @ p["u"] + p["b"][None]) @ p["w"]

    return fn, params, (numbers((5, 6), 4),)


HANDED_ON: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky relu": jax.nn.leaky_relu,
    "absolute value": jnp.abs,
    "a constant": lambda x: -x / 3,
    "a choice": lambda x: jnp.where(jnp.arange(8)[None] % 3 > 0, x, 0),
    "two parts, the other way round": lambda x: jnp.concatenate([x[:, 4:], x[:, :4]], 1)[:, ::-1],
    "padded and cut": lambda x: jnp.pad(x, ((0, 0), (2, 1)))[:, 2:-1],
    "cast": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "heads": lambda x: x.reshape(5, 2, 4).transpose(1, 0, 2).swapaxes(0, 1).reshape(5, 8),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_what_hands_factors_on(name: str):
    fn, params, inputs = two_layers(HANDED_ON[name])
    read = graph.read(fn, params, *inputs)
    found = graph.scaling(read, "w")
    assert names(found) == (["b", "u"], ["w"], 8)
    new = graph.rescale(params, found, factors(found))
    exact = 1e-2 if name == "cast" else 1e-6
    assert graph.apart(read, params, new, *inputs) < exact


REFUSED: dict[str, tuple[Callable[[jax.Array], jax.Array], str]] = {
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), "erfc: no factor"),
    "silu": (jax.nn.silu, r"logistic \(in silu\): no factor can be taken out"),
    "tanh": (jnp.tanh, "tanh: no factor"),
    "softmax": (jax.nn.softmax, r"exp: no factor"),
    "relu6": (jax.nn.relu6, "it is a number of the function itself"),
    "a number added": (lambda x: x + 1, "add: it is a number of the function itself"),
    "a square": (lambda x: x * x, "mul: it would have two factors at once"),
    "a constant matrix": (lambda x: x @ jnp.ones((8, 8)), "would have to have one factor"),
    "a sum of channels": (lambda x: jnp.cumsum(x, 1), "would have to have one factor"),
    "rounding": (jnp.round, r"round \(in round\): no factor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_is_named(name: str):
    between, complaint = REFUSED[name]
    fn, params, inputs = two_layers(between)
    with pytest.raises(ValueError, match=complaint):
        graph.scaling(graph.read(fn, params, *inputs), "w")


def test_only_one_side_of_a_gate_is_scaled():
    params = {name: numbers((6, 8), i) for i, name in enumerate(("gate", "up"))}
    params["down"] = numbers((8, 4), 3)

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return (jax.nn.sigmoid(x @ p["gate"]) * (x @ p["up"])) @ p["down"]

    read = graph.read(fn, params, numbers((5, 6), 4))
    assert names(graph.scaling(read, "down")) == (["up"], ["down"], 8)


def test_all_that_reads_a_channel_is_multiplied():
    params = {name: numbers((6, 6), i) for i, name in enumerate("abcd")}

    def fn(p: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jax.nn.relu(x @ p["a"])
        return jnp.exp(y @ p["b"]), jnp.einsum("ni,oi->no", jnp.maximum(y @ p["c"], 0), p["d"])

    read = graph.read(fn, params, numbers((5, 6), 4))
    assert names(graph.scaling(read, "b")) == (["a"], ["b", "c"], 6)
    assert names(graph.scaling(read, "d")) == (["c"], ["d"], 6)
    found, _ = graph.scalings(read, ["b", "c"])
    assert len(found) == 1  # they have their inputs in common


def test_a_channel_that_is_a_result_or_normed_without_a_scale_is_refused():
    params = {"u": numbers((6, 8), 1), "w": numbers((8, 4), 3)}

    def both(p: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = x @ p["u"]
        return y, y @ p["w"]

    def normed(p: Any, x: jax.Array) -> jax.Array:
        y = x @ p["u"]
        return y / jnp.sqrt(jnp.mean(jnp.square(y), 1, keepdims=True)) @ p["w"]

    x = numbers((5, 6), 4)
    with pytest.raises(ValueError, match="dot_general: it is a result of the function"):
        graph.scaling(graph.read(both, params, x), "w")
    with pytest.raises(ValueError, match="square: no factor can be taken out of it"):
        graph.scaling(graph.read(normed, params, x), "w")


def test_each_turn_of_a_loop_has_factors_of_its_own():
    fn, params, inputs = net("plain scan")
    read = graph.read(fn, params, *inputs)
    found = graph.scaling(read, "blocks/down")
    assert names(found) == (["blocks/up"], ["blocks/down"], 72) and found.turns == 3
    s = factors(found)
    new = tree.leaves(graph.rescale(params, found, s))
    own = np.asarray(s).reshape(3, 24)
    old = tree.leaves(params)
    np.testing.assert_allclose(new["blocks/down"], old["blocks/down"] * own[..., None], rtol=1e-6)
    up = old["blocks/up"][..., 24:] / own[:, None]  # what comes before is the gate's
    np.testing.assert_allclose(new["blocks/up"][..., 24:], up, rtol=1e-6)
    np.testing.assert_array_equal(new["blocks/up"][..., :24], old["blocks/up"][..., :24])
    rows = graph.rows(found, read.of("blocks/down")[0])
    np.testing.assert_array_equal(rows, np.arange(1, 73).reshape(3, 24))


def test_rows_of_grouped_channels_are_those_of_the_matrix():
    """Rows of a group's matrix are the places of its window, which have their channel's factor."""
    read, _ = everything(net("nnx convolutions"))
    found = graph.scaling(read, "grouped/kernel")
    (use,) = read.of("grouped/kernel")
    rows = graph.rows(found, use)
    s = np.asarray(factors(found))
    leaf = tree.leaves(net("nnx convolutions")[1])["grouped/kernel"]
    new = tree.leaves(graph.rescale({"grouped": {"kernel": leaf}}, alone(found), factors(found)))
    matrix = graph.to_matrix(use, leaf)
    expected = matrix * s[rows - 1][..., None]
    np.testing.assert_allclose(graph.to_matrix(use, new["grouped/kernel"]), expected, rtol=1e-6)


def alone(found: Scaling) -> Scaling:
    return Scaling(found.path, (), found.consumers, found.size)


def test_the_inputs_are_divided_though_channels_that_stay_alone_could_hand_on_what_they_get():
    """A depthwise convolution passes factors to its outputs as well as its inputs."""
    params = {"a": numbers((1, 1, 3, 6), 1), "deep": numbers((3, 1, 1, 6), 2)}
    params["c"] = numbers((1, 1, 6, 2), 3)

    def fn(p: Any, x: jax.Array) -> jax.Array:
        for name, groups in (("a", 1), ("deep", 6), ("c", 1)):
            x = jax.lax.conv_general_dilated(
                x,
                p[name],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        return x

    read = graph.read(fn, params, numbers((2, 4, 4, 3), 4))
    assert names(graph.scaling(read, "deep")) == (["a"], ["deep"], 6)
    assert names(graph.scaling(read, "c")) == (["deep"], ["c"], 6)


def test_factors_that_do_not_fit_are_refused():
    fn, params, inputs = two_layers(jax.nn.relu)
    read = graph.read(fn, params, *inputs)
    found = graph.scaling(read, "w")
    with pytest.raises(ValueError, match="'w' takes 8 factors"):
        graph.rescale(params, found, jnp.ones(4))
    with pytest.raises(ValueError, match="positive and finite"):
        graph.rescale(params, found, jnp.zeros(8))
    with pytest.raises(ValueError, match="'b' is in no product"):
        graph.scaling(read, "b")
    with pytest.raises(ValueError, match="input of the function"):
        graph.scaling(read, "u")


def test_dtypes_stay():
    fn, params, inputs = two_layers(jax.nn.relu)
    small = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    found = graph.scaling(graph.read(fn, params, *inputs), "w")
    new = graph.rescale(small, found, factors(found))
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.bfloat16)}
