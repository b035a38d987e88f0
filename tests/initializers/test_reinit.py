"""A tree drawn by rules: each leaf depends on the key and its path alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wlab import initializers
from wlab.initializers import path_key, reinit

RULES = [(".*kernel", initializers.he_normal()), (".*", initializers.normal(1.0))]


def shape(*size, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(size, dtype)


@settings(max_examples=10, deadline=None)
@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.integers(0, 9))
def test_adding_a_layer_moves_no_other(names, seed):
    key = jax.random.key(seed, impl="rbg")
    everything = {name: {"kernel": shape(3, 4), "bias": shape(4)} for name in "abcdefgh"}
    some = {name: everything[name] for name in names}
    all_drawn, some_drawn = reinit(everything, RULES, key), reinit(some, RULES, key)
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, some_drawn[name], all_drawn[name])


def test_equal_layers_draw_different_weights(key):
    drawn = reinit({f"layer_{i}": {"kernel": shape(4, 4)} for i in range(20)}, RULES[:1], key)
    firsts = {float(layer["kernel"][0, 0]) for layer in drawn.values()}
    assert len(firsts) == 20


def test_the_key_of_a_path_is_its_crc_32_folded_in(key):
    """A fixed figure: the check value of CRC-32 is that of the text 123456789."""
    expected = jax.random.fold_in(key, jnp.uint32(0xCBF43926))
    assert path_key(key, "123456789") == expected


def test_shapes_arrays_and_compiled_code_draw_the_same_tree(key):
    shapes = {"a": {"kernel": shape(4, 6)}, "b": shape(6, dtype=jnp.bfloat16)}
    from_shapes = reinit(shapes, RULES, key)
    from_arrays = reinit(from_shapes, RULES, key)
    compiled = jax.jit(lambda k: reinit(shapes, RULES, k))(key)
    jax.tree.map(np.testing.assert_array_equal, from_shapes, from_arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), from_shapes, compiled)
    assert from_shapes["b"].dtype == jnp.bfloat16


def test_none_leaves_a_leaf_alone(key):
    params = {"kernel": jnp.ones((2, 2)), "count": jnp.int32(3), "shape": shape(2)}
    drawn = reinit(params, [("kernel", initializers.zeros), (".*", None)], key)
    np.testing.assert_array_equal(drawn["kernel"], np.zeros((2, 2)))
    assert drawn["count"] is params["count"]
    assert drawn["shape"] is params["shape"]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_each_leaf_keeps_its_sharding_and_draws_the_same_values(axis_type, key):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    rules = [("k.*", initializers.orthogonal()), ("v.*", initializers.sparse(0.5)), *RULES[1:]]
    plain = {"k": jnp.ones((8, 8)), "v": jnp.ones((8, 4)), "b": jnp.ones(8)}
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    sharded = {**jax.device_put({n: plain[n] for n in "kv"}, sharding), "b": plain["b"]}
    expected = reinit(plain, rules, key)
    drawn = reinit(sharded, rules, key)
    assert {n: x.sharding for n, x in drawn.items()} == {n: x.sharding for n, x in sharded.items()}
    assert not drawn["b"].committed
    jax.tree.map(np.testing.assert_array_equal, drawn, expected)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda params: reinit(params, rules, key))(sharded)
    assert {jax.typeof(x).sharding.spec for x in jax.tree.leaves(compiled)} == {
        jax.typeof(x).sharding.spec for x in jax.tree.leaves(sharded)
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), compiled, expected)


def test_a_shape_may_say_where_its_array_goes(key):
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    shapes = {"kernel": jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=sharding)}
    assert reinit(shapes, RULES[:1], key)["kernel"].sharding == sharding


def test_a_population_is_drawn_by_mapping_over_keys():
    keys = jax.random.split(jax.random.key(0), 2)
    rules = [("a", initializers.orthogonal())]
    draw = lambda key: reinit({"a": shape(4, 4)}, rules, key)["a"]  # noqa: E731
    population, alone = jax.vmap(draw)(keys), jnp.stack([draw(key) for key in keys])
    np.testing.assert_allclose(population, alone, atol=2e-6)
    assert not np.allclose(alone[0], alone[1])


def test_errors_name_the_leaf_or_the_rule(key):
    with pytest.raises(ValueError, match=r"reinit: leaf 'dense/bias': Shape \(4,\) has no axis"):
        reinit({"dense": {"bias": shape(4)}}, [(".*", initializers.he_normal())], key)
    with pytest.raises(ValueError, match=r"reinit: leaf 'count': .* got int32"):
        reinit({"count": jnp.int32(0)}, [(".*", initializers.normal())], key)
    with pytest.raises(ValueError, match="reinit: no rule matches leaf 'bias'"):
        reinit({"bias": shape(4)}, [], key)
    with pytest.raises(ValueError, match="reinit: rule 'kernel' matches no leaf"):
        reinit({"bias": shape(4)}, [("kernel", initializers.zeros), *RULES[1:]], key)
