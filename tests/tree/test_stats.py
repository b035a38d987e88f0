"""Counts, bytes and norms, exact where they can be."""

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from wlab import tree


def test_an_array_at_two_paths_counts_once():
    table = jnp.ones((50, 16))
    params = {"embed": table, "head": table, "bias": jnp.zeros(50)}
    assert tree.count(params) == 50 * 16 + 50
    assert tree.nbytes(params) == 4 * (50 * 16 + 50)
    assert tree.aliases(params) == [("embed", "head")]


def test_equal_arrays_are_not_aliases():
    params = {"a": np.ones(3), "b": np.ones(3)}
    assert tree.aliases(params) == []
    assert tree.count(params) == 6


def test_one_shape_may_stand_for_many_leaves():
    shape = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    assert tree.count({"a": shape, "b": shape}) == 24
    assert tree.aliases({"a": shape, "b": shape}) == []


def test_counts_are_exact_beyond_32_bits():
    shape = jax.ShapeDtypeStruct((2**20, 2**20), jnp.int4)
    assert tree.count([shape] * 3) == 3 * 2**40
    assert tree.nbytes([shape]) == 2**39


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (jnp.float32, 32),
        (jnp.bfloat16, 16),
        (jnp.float8_e4m3fn, 8),
        (ml_dtypes.float4_e2m1fn, 4),
        (jnp.int8, 8),
        (jnp.int4, 4),
        (jnp.uint4, 4),
        (jnp.int2, 2),
        (bool, 8),
        (jnp.complex64, 64),
    ],
)
def test_bits_are_those_in_memory(dtype: jnp.dtype, bits: int):
    assert tree.bits(dtype) == bits
    assert tree.leaf_bytes(jax.ShapeDtypeStruct((8,), dtype)) == bits


def test_int4_is_half_a_byte_rounded_up_once_a_leaf():
    assert tree.nbytes({"a": jnp.zeros(5, jnp.int4), "b": jnp.zeros((2, 2), jnp.int4)}) == 3 + 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.int8, bool])
def test_nonzeros_are_counted_exactly_in_every_dtype(dtype: jnp.dtype):
    # bfloat16 itself stops counting at 256.
    weights = np.ones((257, 3))
    weights[0, 0] = 0
    assert tree.nonzero({"w": jnp.array(weights, dtype)}) == {"w": 770}


def test_negative_zero_is_zero_and_nan_is_not():
    assert tree.nonzero([jnp.array([0.0, -0.0, jnp.nan, 1e-30])]) == {"0": 2}


def test_density_is_over_all_entries_together():
    assert tree.density({"a": jnp.zeros(30), "b": jnp.ones(10)}) == 0.25
    assert tree.density({}) == 0


def test_norms_are_those_of_numpy():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=7)}
    stored = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
    for path, norm in tree.norms(stored).items():
        np.testing.assert_allclose(norm, np.linalg.norm(params[path]), rtol=1e-6)
    everything = np.concatenate([params["a"].ravel(), params["b"]])
    np.testing.assert_allclose(tree.global_norm(stored), np.linalg.norm(everything), rtol=1e-6)


def test_norms_of_bf16_are_reduced_in_f32():
    norms = tree.norms({"w": jnp.full(10_000, 0.01, jnp.bfloat16)})
    assert norms["w"].dtype == jnp.float32
    np.testing.assert_allclose(norms["w"], 100 * float(jnp.bfloat16(0.01)), rtol=1e-5)
    np.testing.assert_allclose(tree.global_norm([jnp.full(2**16, 1.0, jnp.bfloat16)]), 256)


def test_norms_take_integers_and_complex_numbers():
    assert tree.global_norm([jnp.array([3, -4])]) == 5
    assert tree.global_norm([jnp.array([3j + 4])]) == 5
    assert tree.global_norm({}) == 0


def test_norms_run_under_jit_and_differentiate():
    norm = jax.jit(jax.grad(lambda p: tree.global_norm(p)))
    np.testing.assert_allclose(norm({"a": jnp.array([3.0, 4.0])})["a"], [0.6, 0.8], rtol=1e-6)


def test_leaves_that_are_no_arrays_are_not_counted():
    model = eqx.nn.MLP(3, 2, 4, depth=1, key=jax.random.key(0))
    sizes = {"layers/0/weight": 12, "layers/0/bias": 4, "layers/1/weight": 8, "layers/1/bias": 2}
    assert {path: leaf.size for path, leaf in tree.arrays(model).items()} == sizes
    assert set(tree.leaves(model)) > set(sizes)  # the activation is a leaf
    assert (tree.count(model), tree.nbytes(model)) == (26, 104)
    assert tree.nonzero(model) == sizes and tree.density(model) == 1
    assert set(tree.norms(model)) == set(sizes) == set(tree.resolve([(".*", None)], model))
    assert [*tree.arrays({"a": 1.5, "b": np.zeros(2), "c": "text", "d": jnp.float32})] == ["a", "b"]
