"""An array under two keys is found before it is trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab.tree import aliases
from wlab.tying import Tie, proposals, refuse_aliases, tie_leaves, untie_leaves


class Layers(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear


def plain(key):
    table = jax.random.normal(key, (5, 3))
    return {"embed": table, "head": {"w": table}}, [Tie("head/w", "embed")]


def nnx_state(key):
    table = jax.random.normal(key, (5, 3))
    tree = nnx.State({"embed": {"w": nnx.Param(table)}, "head": {"w": nnx.Param(table)}})
    return tree, [Tie("head/w", "embed/w")]


def equinox_module(key):
    layer = eqx.nn.Linear(3, 3, key=key)
    tree = Layers(layer, layer)
    return tree, [Tie("second/weight", "first/weight"), Tie("second/bias", "first/bias")]


def haiku_dict(key):
    table = np.asarray(jax.random.normal(key, (5, 3)))
    tree = {"net/~/embed": {"w": table}, "net/~/head": {"w": table}, "net/~/twin": {"w": table}}
    return tree, [Tie("net/~/head/w", "net/~/embed/w"), Tie("net/~/twin/w", "net/~/embed/w")]


@pytest.mark.parametrize("make", [plain, nnx_state, equinox_module, haiku_dict])
def test_aliases_become_ties_and_ties_leave_none(make, key):
    params, expected = make(key)
    assert proposals(params) == expected
    stored = tie_leaves(params, proposals(params))
    assert proposals(stored) == []
    refuse_aliases(stored)
    refuse_aliases(untie_leaves(jax.tree.map(jnp.asarray, stored), expected))


def test_the_refusal_names_the_leaves_and_the_ties_to_write(key):
    params, _ = haiku_dict(key)
    with pytest.raises(ValueError, match="hold the same array") as caught:
        refuse_aliases(params)
    wanted = (
        'tying.tie([Tie("net/~/head/w", "net/~/embed/w"), Tie("net/~/twin/w", "net/~/embed/w")])'
    )
    assert wanted in str(caught.value)


def test_equal_arrays_and_shared_functions_are_no_aliases(key):
    equal_arrays = {"a": jnp.ones(3), "b": jnp.ones(3)}
    assert proposals(equal_arrays) == []
    functions = {"a": jax.nn.relu, "b": jax.nn.relu}
    assert aliases(functions) == proposals(functions) == []
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert proposals({"a": shape, "b": shape}) == []
