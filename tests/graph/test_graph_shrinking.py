"""Smaller networks: as the masked ones say, in every framework and in random functions."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import program
from zoo import COMPILED, net
from zoo_plain import Net, numbers

from wlab import graph, tree
from wlab.graph import Groups, Keep


def grouped(of: Net) -> Groups:
    fn, params, inputs = of
    return graph.groups(graph.read(fn, params, *inputs))


def half(groups: Groups, seed: int = 0) -> dict[str, np.ndarray]:
    """Half of the units of every group, chosen by chance."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.permutation(group.size) < -(-group.size // 2)
        for name, group in groups.groups.items()
    }


def masked_by_hand(groups: Groups, keep: Keep, params: Any) -> Any:
    """The weights of lost units set to zero, slice by slice."""
    leaves = {path: np.array(leaf) for path, leaf in tree.leaves(params).items()}
    for name, kept in keep.items():
        for path, axis, positions in groups.groups[name].members:
            np.moveaxis(leaves[path], axis, 0)[positions[~kept].ravel()] = 0
    return tree.replace(params, {path: jnp.asarray(leaf) for path, leaf in leaves.items()})


def difference(of: Net, groups: Groups, keep: Keep) -> tuple[float, float]:
    """How far the smaller network is from the masked one, and the whole one from that."""
    fn, params, inputs = of
    small, whole = graph.shrink(groups, keep), jax.jit(fn)
    expected = np.asarray(whole(masked_by_hand(groups, keep, params), *inputs))
    found = np.asarray(jax.jit(small.fn)(small.params(params), *inputs))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    size = max(np.abs(expected).max(), 1e-3)  # else it is rounding alone
    before = np.asarray(whole(params, *inputs))
    return np.abs(found - expected).max() / size, np.abs(before - expected).max() / size


@pytest.mark.parametrize("name", COMPILED)
def test_a_smaller_network_says_what_the_masked_one_says(name: str):
    groups = grouped(net(name))
    same, other = difference(net(name), groups, half(groups))
    # One of the networks casts to bfloat16 on the way.
    assert same < (1e-2 if name == "plain control flow" else 1e-5) < other


SEEDS = [pytest.param(i, marks=() if i < 16 else pytest.mark.long) for i in range(400)]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_functions_shrink_to_what_their_masked_selves_say(seed: int):
    groups = grouped(program(seed))
    same, _ = difference(program(seed), groups, half(groups, seed))
    assert same < 1e-4


def test_most_random_functions_have_something_to_lose():
    """Else the test above would say nothing."""
    found = [sum(g.made for g in grouped(program(seed)).groups.values()) for seed in range(16)]
    assert np.mean(np.array(found) > 0) > 0.7


EXPECTED = {
    # Units of each group that the network makes, in the order of use.
    "plain mlp": [12],
    "plain thrice": [8, 8],
    "linen mlp": [32],
    "linen transformer": [16, 4, 4, 4, 64],  # the width, heads, of keys, of values, between
    "nnx convolutions": [2, 4, 3],  # 8 channels in 4 groups of 2, of which each makes 3
    "llama": [16, *[2, 2, 2, 4, 24] * 2],  # the width; key heads, repeats, half of keys, of values
    "lstm": [12, 12],
    "vit": [4, 4, 4, 64] * 2,  # its layer norms keep the width
    "haiku convolutions": [8],
    "equinox mlp": [12],
    "resnet": [8, 8, 16, 16],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_those_that_the_network_has(name: str):
    made = [group for group in grouped(net(name)).groups.values() if group.made]
    assert [group.size for group in made] == EXPECTED[name]


def test_a_unit_is_all_its_slices():
    groups = grouped(net("lstm"))
    members = {
        (m.path, m.axis): m.positions for m in groups.groups["lstm_0/input/kernel:1"].members
    }
    gates = np.arange(48).reshape(4, 12).T  # a hidden unit has a place in each of four gates
    np.testing.assert_array_equal(members["lstm_0/input/kernel", 1], gates)
    np.testing.assert_array_equal(members["lstm_1/input/bias", 0], gates)
    np.testing.assert_array_equal(members["head/kernel", 0], np.arange(12)[:, None])


def test_the_tables_name_units_and_what_must_stay():
    groups = grouped(net("plain mlp"))
    assert list(groups.groups) == ["up/kernel:0", "up/kernel:1"]
    assert [group.made for group in groups.groups.values()] == [False, True]
    assert groups.table().rows == (("up/kernel:0", 8, 1, 12), ("up/kernel:1", 12, 3, 8 + 1 + 4))
    assert groups.fixed == {("down/kernel", 1): "it is an axis of the result"}


def test_the_smaller_tree_fits_the_source_where_that_takes_widths():
    for name in ("equinox mlp", "nnx attention", "haiku convolutions"):
        fn, params, inputs = net(name)
        groups = grouped(net(name))
        made = {n: k for n, k in half(groups).items() if groups.groups[n].size in (12, 32)}
        small = graph.shrink(groups, made)
        if made:
            theirs = fn(small.params(params), *inputs)
            np.testing.assert_allclose(small.fn(small.params(params), *inputs), theirs, atol=1e-6)


def test_a_linen_network_as_its_smaller_declaration():
    _, params, inputs = net("linen mlp")
    groups = grouped(net("linen mlp"))
    small = graph.shrink(groups, {"Dense_1/kernel:1": np.arange(32) % 2 == 0})
    leaves = small.params(params)

    class Smaller(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.gelu(nn.Dense(16, name="Dense_1")(x))
            return nn.Dense(4, name="Dense_0")(x)

    expected = np.asarray(Smaller().apply({"params": leaves}, *inputs))
    np.testing.assert_allclose(small.fn(leaves, *inputs), expected, atol=1e-6)


def test_inputs_of_another_shape_are_read_again():
    fn, params, (x,) = net("resnet")
    groups = grouped(net("resnet"))
    keep = half(groups)
    small, more = graph.shrink(groups, keep), numbers((5, *x.shape[1:]), 3)
    expected = fn(graph.masked(groups, keep, params), more)
    np.testing.assert_allclose(small.fn(small.params(params), more), expected, atol=1e-5)


def test_weights_of_another_dtype_are_read_again():
    _, params, (x,) = net("plain mlp")
    groups = grouped(net("plain mlp"))
    small = graph.shrink(groups, half(groups))
    less = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), small.params(params))
    assert small.fn(less, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_gradients_are_those_of_the_masked_network():
    fn, params, inputs = net("resnet")
    groups = grouped(net("resnet"))
    keep = half(groups)
    small = graph.shrink(groups, keep)

    def loss(fn: Any) -> Any:
        return jax.grad(lambda p: jnp.sum(fn(p, *inputs) ** 2))

    expected = small.params(loss(fn)(graph.masked(groups, keep, params)))
    found = loss(small.fn)(small.params(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def test_relu_keeps_its_derivative_at_zero():
    def fn(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 1))}
    x = jnp.zeros((1, 2))
    groups = grouped((fn, params, (x,)))
    small = graph.shrink(groups, {"a:1": np.array([True, True, False, False])})
    slope = jax.grad(lambda x: small.fn(small.params(params), x).sum())(x)
    np.testing.assert_array_equal(slope, 0)  # that of max(x, 0) would be a half


def test_an_optimizer_gets_smaller_with_its_weights():
    fn, params, (x,) = net("plain mlp")
    groups = grouped(net("plain mlp"))
    small = graph.shrink(groups, half(groups))
    tx = optax.adamw(1e-3)
    grads = jax.grad(lambda p: jnp.sum(fn(p, x) ** 2))(params)
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
        _, state = tx.update(grads, tx.init(params), params)
        less = small.like(state, params)
        updates, _ = tx.update(small.params(grads), less, small.params(params))
        expected, _ = tx.update(grads, state, params)
    jax.tree.map(np.testing.assert_array_equal, updates, small.params(expected))
    assert less[0].count == 1


def test_statistics_of_a_norm_get_smaller_if_results_may():
    """Training a smaller network with batch norms: its state is a leaf, and one of the results."""

    def fn(tree: Any, x: jax.Array) -> Any:
        x = x @ tree["params"]["up"]
        mean = x.mean(0)
        state = {"mean": 0.9 * tree["state"]["mean"] + 0.1 * mean}
        return (x - mean[None]) @ tree["params"]["down"], state

    whole = {
        "params": {"up": numbers((4, 6), 1), "down": numbers((6, 2), 2)},
        "state": {"mean": jnp.zeros(6)},
    }
    x = numbers((3, 4))
    read = graph.read(fn, whole, x)
    assert not any(group.made for group in graph.groups(read).groups.values())
    groups = graph.groups(read, loose=["1/mean"])
    keep = {"params/up:1": np.arange(6) < 2}
    small = graph.shrink(groups, keep)
    result, state = small.fn(small.params(whole), x)
    assert state["mean"].shape == (2,)
    expected, _ = fn(graph.masked(groups, keep, whole), x)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_emptied_units_are_those_without_a_weight():
    _, params, _ = net("resnet")
    groups = grouped(net("resnet"))
    keep = half(groups)
    found = graph.emptied(groups, graph.masked(groups, keep, params))
    assert found.keys() == keep.keys()
    for name, kept in found.items():
        np.testing.assert_array_equal(kept, keep[name])
    assert graph.emptied(groups, jax.tree.map(jnp.ones_like, params)) == {}
    masked = graph.masked(groups, keep, params)
    assert graph.emptied(groups, masked, where=lambda path: False) == {}
    nothing = graph.emptied(groups, jax.tree.map(jnp.zeros_like, params))
    assert all(kept[0] and not kept[1:].any() for kept in nothing.values())


def test_verify_tells_how_far_apart_they_are():
    _, params, inputs = net("llama")
    groups = grouped(net("llama"))
    assert graph.verify(groups, half(groups), params, *inputs) < 1e-5


def test_what_cannot_be_is_refused():
    groups = grouped(net("plain mlp"))
    with pytest.raises(ValueError, match="'up' is no group; there are up/kernel:0, up/kernel:1"):
        graph.shrink(groups, {"up": np.ones(12, bool)})
    with pytest.raises(ValueError, match="has 12 units; which of them stay must be as many bools"):
        graph.shrink(groups, {"up/kernel:1": np.ones(11, bool)})
    with pytest.raises(ValueError, match="would lose all of its 12 units"):
        graph.shrink(groups, {"up/kernel:1": np.zeros(12, bool)})
    _, params, inputs = net("plain mlp")
    small = graph.shrink(groups, {"up/kernel:1": np.arange(12) < 5})
    with pytest.raises(ValueError, match=r"'down/kernel' has shape \(12, 4\); .* takes \(5, 4\)"):
        small.fn(params, *inputs)


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (lambda x: jnp.sort(x, -1), "sort needs it whole"),
        (lambda x: jnp.cumsum(x, -1), "cumsum runs along it"),
        (lambda x: jax.nn.softmax(x, -1), "reduce_max runs over it"),
        (lambda x: x / x.sum(-1, keepdims=True), None),
        (lambda x: jnp.cos(x).sum(-1, keepdims=True) * x, "reduce_sum runs over it"),
        (lambda x: 1 / x, "div is not finite"),
        (lambda x: jnp.abs(x) ** -0.5, "pow is not finite"),
        (lambda x: (jnp.abs(x) ** 1.5).sum(-1, keepdims=True) * x, None),
        (lambda x: (jnp.abs(x) ** 0.0).sum(-1, keepdims=True) * x, "reduce_sum runs over it"),
        (lambda x: jnp.cos(x) @ jnp.cos(x).T @ x, "dot_general sums over it"),
        (lambda x: jnp.tanh(x) @ jnp.cos(x).T @ x, None),
    ],
)
def test_what_mixes_channels_is_named(mix: Any, reason: str | None):
    def fn(p: Any, x: jax.Array) -> jax.Array:
        return mix(x @ p["a"]) @ p["b"]

    of = (fn, {"a": numbers((3, 6), 1), "b": numbers((6, 2), 2)}, (numbers((4, 3)),))
    groups = grouped(of)
    if reason is None:
        assert difference(of, groups, half(groups))[0] < 1e-5
    else:
        assert reason in groups.fixed["a", 1] and "a:1" not in groups.groups


def test_a_product_of_axes_is_zero_only_if_both_are():
    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = jnp.cos(jnp.einsum("ni,ijk->njk", x, p["a"])) * p["scale"][None, :, None]
        x = x.reshape(len(x), -1)
        return x.sum(-1, keepdims=True) * x @ p["b"]

    params = {"a": numbers((3, 2, 4), 1), "scale": numbers((2,), 2), "b": numbers((8, 2), 3)}
    of = (fn, params, (numbers((4, 3)),))
    groups = grouped(of)
    assert [group.size for group in groups.groups.values()] == [3]  # of the inputs
    assert ("a", 2) in groups.fixed


def test_a_position_that_is_taken_by_its_number_stays():
    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = x @ p["a"]
        return (x[:, 3:4] * x) @ p["b"]

    of = (fn, {"a": numbers((3, 6), 1), "b": numbers((6, 2), 2)}, (numbers((4, 3)),))
    groups = grouped(of)
    (member, _) = groups.groups["a:1"].members
    np.testing.assert_array_equal(member.positions.ravel(), [0, 1, 2, 4, 5])
    assert difference(of, groups, half(groups))[0] < 1e-5


def test_arrays_without_an_entry_are_no_obstacle():
    def fn(p: Any, x: jax.Array) -> jax.Array:
        past = jnp.zeros((len(x), 0, 6))
        x = jnp.concatenate([past, (x @ p["a"])[:, None]], axis=1)
        return jnp.tanh(x).reshape(len(x), -1) @ p["b"]

    of = (fn, {"a": numbers((3, 6), 1), "b": numbers((6, 2), 2)}, (numbers((4, 3)),))
    groups = grouped(of)
    assert difference(of, groups, half(groups))[0] < 1e-5


def test_equinox_modules_come_back_as_modules():
    _, params, _ = net("equinox mlp")
    groups = grouped(net("equinox mlp"))
    small = graph.shrink(groups, half(groups)).params(params)
    assert isinstance(small, eqx.nn.MLP) and small.layers[0].weight.shape == (6, 4)


def test_an_optimizers_state_is_for_like():
    groups = grouped(net("plain mlp"))
    params = net("plain mlp")[1]
    small, state = graph.shrink(groups, half(groups)), optax.adam(1e-3).init(params)
    with pytest.raises(ValueError, match=r"no leaf '0/count'.* smaller by `like\(state, params\)`"):
        small.params(state)
