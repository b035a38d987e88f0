"""A tie of sharded tables: eight devices give one device's bits and gather no leaf."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab.tying import Tie, share_stacked, tie, tie_leaves, untie_leaves

TIES = [
    Tie("head", "embed", transpose=True, scale=0.5),
    Tie("twin", "embed"),
]
AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SPECS = {"rows": P("model", None), "columns": P(None, "model"), "both": P("data", "model")}


def integers(shape, seed):
    """Sums of these are exact in every order."""
    return np.random.default_rng(seed).integers(-8, 8, shape).astype(np.float32)


def loss(seen, weight):
    """A linear probe: the cotangent of each seen leaf is its weight."""
    return sum(jnp.sum(seen[name] * weight[name]) for name in seen)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("axes", AXES)
def test_view_and_gradient_on_a_mesh_equal_one_device_without_a_gather(axes, spec, key):
    params = {"embed": integers((16, 8), 0), "head": integers((8, 16), 1)}
    params["twin"] = integers((16, 8), 2)
    stored = jax.tree.map(jnp.asarray, tie_leaves(params, TIES))
    view = untie_leaves(stored, TIES)
    grads = jax.grad(lambda s: loss(untie_leaves(s, TIES), params))(stored)

    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AXES[axes],) * 2)
    placement = {"embed": SPECS[spec], "twin": SPECS[spec], "head": P(*SPECS[spec][::-1])}
    with jax.set_mesh(mesh):
        placed = {
            name: jax.device_put(leaf, NamedSharding(mesh, placement[name]))
            for name, leaf in params.items()
        }
        weights = tie(TIES)
        stored, state = weights.init(placed, key)
        seen = jax.jit(weights.view)(stored, state, 0)
        got = jax.jit(jax.grad(lambda s: loss(weights.view(s, state, 0), placed)))(stored)
        text = jax.jit(weights.view).lower(stored, state, 0).compile().as_text()
    for name, leaf in seen.items():
        np.testing.assert_array_equal(leaf, view[name])
        assert leaf.sharding.is_equivalent_to(placed[name].sharding, leaf.ndim)
    np.testing.assert_array_equal(got["embed"], grads["embed"])
    assert not re.search("all-gather|all-to-all|collective-permute|all-reduce", text or "")


@pytest.mark.parametrize("axes", AXES)
def test_stacked_layers_are_repeated_where_they_lie(axes, key):
    weights = share_stacked([("w", 2)])
    params = {"w": integers((4, 8, 16), 0)}
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AXES[axes],) * 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, NamedSharding(mesh, P(None, "data", "model")))
        stored, state = jax.jit(weights.init)(placed, key)
        seen = jax.jit(weights.view)(stored, state, 0)
        grads = jax.jit(jax.grad(lambda s: loss(weights.view(s, state, 0), placed)))(stored)
    np.testing.assert_array_equal(seen["w"], params["w"][[0, 0, 2, 2]])
    np.testing.assert_array_equal(grads["w"], params["w"].reshape(2, 2, 8, 16).sum(1))
    assert seen["w"].sharding.is_equivalent_to(placed["w"].sharding, 3)
