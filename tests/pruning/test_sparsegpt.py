"""SparseGPT on trees of any function: better than Wanda, true losses, stages, loud damping."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.pruning import Neighbours, PerLeaf, PerOutput, prune, sparsegpt, wanda


def numbers(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def network(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"].T


@pytest.fixture
def params():
    return {"up": numbers(16, 40, seed=1) / 4, "down": numbers(8, 40, seed=2)}


@pytest.fixture
def batches():
    mixed = numbers(16, 16, seed=3) / 4 + jnp.eye(16)
    sizes = jnp.linspace(0.2, 2, 16)
    return [((numbers(64, 16, seed=i) @ mixed) * sizes[None],) for i in range(4, 8)]


RULES = [(".*", PerOutput(0.5))]


def distance(params, other, batches) -> float:
    away = [jnp.sum((network(params, x) - network(other, x)) ** 2) for (x,) in batches]
    return float(sum(away))


@pytest.mark.parametrize("pattern", [PerOutput(0.5), PerLeaf(0.5), Neighbours(keep=2, of=4)])
def test_it_is_nearer_than_wanda_and_wanda_than_magnitude(params, batches, pattern):
    rules = [(".*", pattern)]
    found = sparsegpt(network, params, batches, rules, stages=["up", "down"])
    by_inputs = wanda(network, params, batches, rules, stages=["up", "down"])
    assert distance(params, found.params, batches) < 0.8 * distance(params, by_inputs, batches)
    if isinstance(pattern, PerLeaf):
        assert distance(params, by_inputs, batches) < distance(params, prune(params, 0.5), batches)
    zeros = [int((leaf == 0).sum()) for leaf in jax.tree.leaves(found.params)]
    assert zeros == [320 // 2, 640 // 2]


def test_losses_are_parts_of_the_outputs(params, batches):
    found = sparsegpt(network, params, batches, RULES)
    x = np.concatenate([np.asarray(x) for (x,) in batches])
    hidden = np.tanh(x @ np.asarray(params["up"]))
    for path, inputs, turned in (("up", x, np.asarray), ("down", hidden, np.transpose)):
        dense, pruned = (turned(tree[path]) for tree in (params, found.params))
        true = np.sum((inputs @ (dense - pruned)) ** 2) / np.sum((inputs @ dense) ** 2)
        np.testing.assert_allclose(found.losses[path], true, rtol=1e-3)


def test_layers_of_a_scan_are_solved_each_by_itself(batches):
    layers = [{"w": numbers(16, 16, seed=i) / 4} for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    def scanned(p, x):
        return jax.lax.scan(lambda x, p: (jnp.tanh(x @ p["w"]), None), x, p)[0]

    def unrolled(p, x):
        return jnp.tanh(jnp.tanh(x @ p[0]["w"]) @ p[1]["w"])

    found = sparsegpt(scanned, stacked, batches, RULES).params["w"]
    apart = sparsegpt(unrolled, layers, batches, RULES).params
    for i in range(2):
        np.testing.assert_allclose(found[i], apart[i]["w"], rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_its_dtype_and_its_zeros(params, batches):
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    batches = [(x.astype(jnp.bfloat16),) for (x,) in batches]
    found = sparsegpt(network, low, batches, RULES).params
    assert found["up"].dtype == jnp.bfloat16
    assert int((found["up"] == 0).sum()) == 320


def test_too_few_rows_are_damped_more_and_told(params):
    few = [(numbers(3, 16),)]
    with pytest.warns(UserWarning, match="XᵀX of 'up' has no inverse with damping 0.0; trying"):
        found = sparsegpt(network, params, few, [("up", PerOutput(0.5)), (".*", None)], damping=0.0)
    assert np.isfinite(found.params["up"]).all()
    assert found.params["down"] is params["down"]


@pytest.mark.parametrize("damping", [-0.1, 1.5])
def test_impossible_damping_is_refused(params, batches, damping):
    with pytest.raises(ValueError, match="from 0 to 1"):
        sparsegpt(network, params, batches, RULES, damping=damping)


def test_blocks_of_no_row_are_refused(params, batches):
    with pytest.raises(ValueError, match="at least 1; got 0"):
        sparsegpt(network, params, batches, RULES, block=0)


def test_batches_that_are_no_tuples_are_refused(params, batches):
    arrays: Any = [x for (x,) in batches]
    with pytest.raises(TypeError, match=r"sparsegpt: .* a list of tuples.* a batch is ArrayImpl"):
        sparsegpt(network, params, arrays, RULES)


def test_zeros_are_refused_by_name(params):
    with pytest.raises(ValueError, match="are zero in this data"):
        sparsegpt(network, params, [(jnp.zeros((4, 16)),)], RULES)


def test_a_density_alone_is_per_leaf(params, batches):
    found = sparsegpt(network, params, batches, [(".*", 0.5)]).params
    wanted = sparsegpt(network, params, batches, [(".*", PerLeaf(0.5))]).params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
