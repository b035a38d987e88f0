"""Max pooling against flax's, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab.models.pooling import halved


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 3)])
def test_the_largest_of_each_four_and_its_gradient(height: int, width: int):
    maps = jax.random.normal(jax.random.key(0), (3, height, width, 2))
    found, pull = jax.vjp(halved, maps)
    expected, push = jax.vjp(lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)), maps)
    np.testing.assert_array_equal(found, expected)
    slope = jax.random.normal(jax.random.key(1), found.shape)
    np.testing.assert_array_equal(pull(slope)[0], push(slope)[0])


def test_equal_entries_share_the_gradient():
    (slope,) = jax.vjp(halved, jnp.zeros((1, 2, 2, 1)))[1](jnp.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(slope.reshape(-1), [0.25, 0.25, 0.25, 0.25])
