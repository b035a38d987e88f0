"""The same callables in flax linen, flax nnx, haiku and equinox."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab import initializers
from wlab.initializers import orthogonal, reinit

WIDTH = 16
INIT = orthogonal(gain=2.0)


def assert_drawn(kernel):
    matrix = np.asarray(kernel, np.float64).reshape(WIDTH, WIDTH)
    np.testing.assert_allclose(matrix.T @ matrix, 4 * np.eye(WIDTH), atol=1e-4)


def test_flax_linen(key):
    layer = nn.Dense(WIDTH, kernel_init=INIT, bias_init=initializers.ones)
    params = layer.init(key, jnp.ones((1, WIDTH)))["params"]
    assert_drawn(params["kernel"])
    np.testing.assert_array_equal(params["bias"], np.ones(WIDTH))


def test_flax_nnx():
    layer = nnx.Linear(WIDTH, WIDTH, kernel_init=INIT, rngs=nnx.Rngs(0))
    assert_drawn(layer.kernel[...])
    attention = nnx.MultiHeadAttention(
        num_heads=4, in_features=WIDTH, kernel_init=INIT, rngs=nnx.Rngs(0)
    )
    assert_drawn(attention.query.kernel[...])


def test_haiku_with_its_own_stream_of_keys(key):
    def forward(x):
        init = lambda shape, dtype: INIT(hk.next_rng_key(), shape, dtype)  # noqa: E731
        return hk.Linear(WIDTH, w_init=init)(x)

    params = hk.transform(forward).init(key, jnp.ones((1, WIDTH)))
    assert_drawn(params["linear"]["w"])


def test_an_equinox_layer_by_declared_axes(key):
    layer = eqx.nn.Linear(WIDTH, 8, key=key)
    init = initializers.sparse(0.25, in_axis=-1, out_axis=-2)
    layer = reinit(layer, [("weight", init), ("bias", initializers.zeros)], key)
    np.testing.assert_array_equal(np.count_nonzero(layer.weight, axis=1), np.full(8, 4))
    np.testing.assert_array_equal(layer(jnp.zeros(WIDTH)), np.zeros(8))


def linen_tree(key):
    return nn.Dense(WIDTH).init(key, jnp.ones((1, WIDTH)))


def nnx_tree(key):
    return nnx.state(nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(key)))


def haiku_tree(key):
    return hk.transform(lambda x: hk.Linear(WIDTH)(x)).init(key, jnp.ones((1, WIDTH)))


def equinox_tree(key):
    return eqx.filter(eqx.nn.MLP(WIDTH, WIDTH, WIDTH, 1, key=key), eqx.is_inexact_array)


@pytest.mark.parametrize("make", [linen_tree, nnx_tree, haiku_tree, equinox_tree])
def test_any_tree_is_drawn_anew_from_its_shapes(make, key):
    rules = [(".*(kernel|w|weight)", INIT), (".*(bias|b)", initializers.zeros)]
    old = make(key)
    drawn = reinit(jax.eval_shape(lambda: old), rules, key)
    assert jax.tree.structure(drawn) == jax.tree.structure(old)
    for leaf in jax.tree.leaves(drawn):
        if leaf.ndim == 2:
            assert_drawn(leaf)
        else:
            np.testing.assert_array_equal(leaf, np.zeros(WIDTH))
