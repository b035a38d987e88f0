"""A new model begun from an old one: what is taken, what is not, and that all of it is told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from wlab import tree
from wlab.transfer import warm_start


def fresh():
    return {
        "embed": jnp.full((5, 3), -1.0),
        "body": {"kernel": jnp.full((3, 3), -1.0), "bias": jnp.full(3, -1.0)},
        "head": jnp.full((3, 2), -1.0),
        "pool": jnp.full((2, 2), -1.0),
    }


def old():
    return {
        "embed": np.arange(12, dtype=np.float32).reshape(4, 3),
        "body/kernel": np.arange(9, dtype=np.float32).reshape(3, 3),
        "body/bias": np.arange(3, dtype=np.float16),
        "head": np.ones((3, 10), np.float32),
        "decoder": np.ones(7, np.float32),
    }


RULES = [("body/.*", "take"), ("head", "zero"), ("embed", "slice"), ("pool", "init")]


def test_every_policy_does_what_it_says_and_the_table_tells_it():
    params, table = warm_start(fresh(), old(), RULES)
    np.testing.assert_array_equal(params["body"]["kernel"], old()["body/kernel"])
    np.testing.assert_array_equal(params["body"]["bias"], [0, 1, 2])
    np.testing.assert_array_equal(params["head"], np.zeros((3, 2)))
    np.testing.assert_array_equal(params["embed"][:4], old()["embed"])
    np.testing.assert_array_equal(params["embed"][4], [-1, -1, -1])
    np.testing.assert_array_equal(params["pool"], fresh()["pool"])
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows == {
        "embed": ("slice", "float32[5,3]", "float32[4,3]", 12, 3, 0),
        "body/kernel": ("take", "float32[3,3]", "float32[3,3]", 9, 0, 0),
        "body/bias": ("take", "float32[3]", "float16[3]", 3, 0, 0),
        "head": ("zero", "float32[3,2]", "float32[3,10]", 0, 6, 30),
        "pool": ("init", "float32[2,2]", None, 0, 4, 0),
        "decoder": ("unused", None, "float32[7]", 0, 0, 7),
    }


def test_a_slice_may_also_leave_entries_behind():
    params, table = warm_start({"w": jnp.zeros((2, 4))}, {"w": np.ones((3, 3))}, [("w", "slice")])
    np.testing.assert_array_equal(params["w"], [[1, 1, 1, 0]] * 2)
    row = table.records()[0]
    assert (row["taken"], row["other"], row["unused"]) == (6, 2, 3)


def test_shapes_are_enough_where_nothing_stays_fresh():
    rules = [("embed|pool", "zero"), ("head", "zero"), (".*", "take")]
    params, _ = warm_start(jax.eval_shape(fresh), old(), rules)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh())
    with pytest.raises(ValueError, match="'pool' is a shape, and 'init' keeps fresh values"):
        warm_start(jax.eval_shape(fresh), old(), [("pool", "init"), *rules])


def test_no_leaf_is_shared_with_the_pretrained_tree():
    source = {"w": jnp.ones(3)}
    params, _ = warm_start({"w": jnp.zeros(3)}, source)
    source["w"].delete()
    np.testing.assert_array_equal(params["w"], [1, 1, 1])


def test_leaves_keep_their_place_on_a_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    place = NamedSharding(mesh, P("data", None))
    params = {name: jax.device_put(np.zeros((8, 2), np.float32), place) for name in "abc"}
    source = {"a": np.ones((8, 2), np.float32), "b": np.ones((4, 2), np.float32)}
    new, _ = warm_start(params, source, [("a", "take"), ("b", "slice"), ("c", "zero")])
    assert {leaf.sharding for leaf in new.values()} == {place}
    np.testing.assert_array_equal(np.asarray(new["b"])[:, 0], [1] * 4 + [0] * 4)


@pytest.mark.parametrize("kind", ["nnx", "equinox"])
def test_any_tree_can_be_filled(kind, key):
    if kind == "nnx":
        given, name = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param), "kernel"
    else:
        given, name = eqx.filter(eqx.nn.Linear(3, 2, key=key), eqx.is_inexact_array), "weight"
    source = {path: np.ones(leaf.shape, np.float32) for path, leaf in tree.leaves(given).items()}
    new, _ = warm_start(given, source, [(name, "take"), ("bias", "zero")])
    assert jax.tree.structure(new) == jax.tree.structure(given)
    assert np.all(tree.leaves(new)[name] == 1) and np.all(tree.leaves(new)["bias"] == 0)


def test_what_cannot_be_had_is_refused_and_all_of_it_is_named():
    with pytest.raises(ValueError) as error:
        warm_start(fresh(), old())
    message = str(error.value)
    assert "'embed' is float32[5,3], but float32[4,3] in the pretrained tree" in message
    assert "'head' is float32[3,2], but float32[3,10]" in message
    assert "'pool' is not in the pretrained tree" in message
    assert message.endswith("(3 leaves).")
    with pytest.raises(ValueError, match=r"'w' is float32\[3\], but int32\[3\] .* convert it"):
        warm_start({"w": jnp.zeros(3)}, {"w": np.zeros(3, np.int32)})
    with pytest.raises(ValueError, match=r"'w' is float32\[3\], but float32\[3,1\]"):
        warm_start({"w": jnp.zeros(3)}, {"w": np.zeros((3, 1), np.float32)}, [("w", "slice")])
    with pytest.raises(ValueError, match=r"rule 'head' gives 'zeros'; give one of \('take'"):
        warm_start(fresh(), old(), [("head", "zeros"), (".*", "init")])
    with pytest.raises(ValueError, match="warm_start: rule 'heads' matches no leaf"):
        warm_start(fresh(), old(), [("heads", "zero"), *RULES])
