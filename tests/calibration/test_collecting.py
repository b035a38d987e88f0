"""Streamed statistics against NumPy's of all rows at once; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.calibration import Gram, Squares, absmax, collect, gram, merged, squares


def network(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"].T


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0))
    return {"a": jax.random.normal(keys[0], (6, 5)), "b": jax.random.normal(keys[1], (3, 5))}


@pytest.fixture
def batches():
    return [(jax.random.normal(jax.random.key(i), (4 + i % 2, 6)),) for i in range(5)]


def inputs_of(params, batches):
    x = np.concatenate([np.asarray(x) for (x,) in batches])
    return {"a": x, "b": np.tanh(x @ np.asarray(params["a"]))}


def test_statistics_are_those_of_all_rows(params, batches):
    for path, x in inputs_of(params, batches).items():
        found = collect(network, params, batches, gram())[path]
        assert isinstance(found, Gram) and int(found.rows) == len(x) == 22
        np.testing.assert_allclose(found.products, x.T @ x, rtol=1e-4, atol=1e-5)
        found = collect(network, params, batches, squares())[path]
        assert isinstance(found, Squares) and int(found.rows) == 22
        np.testing.assert_allclose(found.sums, (x * x).sum(0), rtol=1e-5)
        found = collect(network, params, batches, absmax())[path]
        np.testing.assert_allclose(found, np.abs(x).max(0), rtol=1e-6)


def test_one_goes_on_where_one_was_and_parts_are_put_together(params, batches):
    whole = collect(network, params, batches, gram())
    first = collect(network, params, batches[:2], gram())
    kept = jax.tree.map(np.array, first)
    onwards = collect(network, params, batches[2:], gram(), begin=first)
    jax.tree.map(np.testing.assert_array_equal, first, kept)  # not given away
    together = merged(gram(), [first, collect(network, params, batches[2:], gram())])
    for other in (onwards, together):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, other)


def test_progress_is_told(params, batches):
    done = []
    collect(network, params, iter(batches), squares(), report=done.append)
    assert done == [1, 2, 3, 4, 5]


def test_uses_of_one_leaf_are_together():
    def thrice(w, x):
        return (x @ w) @ w @ w

    w, x = jnp.eye(4) * 2, jnp.ones((3, 4))
    found = collect(lambda p, x: thrice(p["w"], x), {"w": w}, [(x,)], squares())["w"]
    np.testing.assert_array_equal(found.sums, np.full(4, 3.0 * (1 + 4 + 16)))
    assert int(found.rows) == 9


def test_a_sharded_batch_is_added_up(params, batches):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.NamedSharding(mesh, jax.P("data"))
    even = [(x[:4],) for (x,) in batches]
    there = collect(network, params, [(jax.device_put(x, spec),) for (x,) in even], gram())
    here = collect(network, params, even, gram())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), there, here)


def test_half_precision_is_added_up_in_single():
    x = jnp.full((4096, 2), 1.0, jnp.bfloat16)  # in bfloat16 the sum would stop at 256
    found = collect(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 2), jnp.bfloat16)}, [(x,)], gram())
    np.testing.assert_array_equal(found["w"].products, np.full((2, 2), 4096.0))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "no batch"),
        ([(jnp.full((2, 6), jnp.nan),)], "inputs of 'a' hold NaN"),
    ],
)
def test_bad_batches_are_refused(params, batches, said):
    with pytest.raises(ValueError, match=said):
        collect(network, params, batches, gram())


def test_a_batch_that_is_no_tuple_is_refused(params):
    with pytest.raises(TypeError, match="a batch is a tuple"):
        collect(network, params, iter([jnp.ones((2, 6))]), gram())


def test_a_leaf_that_is_used_both_ways_is_refused():
    def there_and_back(p, x):
        return (x @ p["w"]) @ p["w"].T

    params, batch = {"w": jnp.ones((4, 3))}, (jnp.ones((2, 4)),)
    with pytest.raises(ValueError, match="'w' is summed over its axes"):
        collect(there_and_back, params, [batch], gram())
    found = collect(there_and_back, params, [batch], gram(), where=lambda use: use.in_axes == (0,))
    assert found["w"].products.shape == (4, 4)


def test_parts_of_other_leaves_are_not_merged():
    with pytest.raises(ValueError, match="not of the same leaves"):
        merged(gram(), [{"a": 1}, {"b": 1}])
