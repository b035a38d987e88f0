"""Fully connected networks against a forward pass in NumPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import Model, lenet_300_100, mlp
from wlab.transform import Params

Draw = Callable[[Model], Params]


def test_lenet_300_100_computes_what_numpy_does(drawn: Draw):
    model = lenet_300_100()
    params = drawn(model)
    fc1, fc2, fc3 = (jax.tree.map(np.float64, params[name]) for name in ("fc1", "fc2", "fc3"))
    x = np.random.default_rng(0).normal(size=(3, 28, 28)).astype(np.float32)
    h = x.reshape(3, 784).astype(np.float64)
    for layer in (fc1, fc2):
        h = np.maximum(h @ layer["kernel"] + layer["bias"], 0)
    expected = h @ fc3["kernel"] + fc3["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), expected, rtol=1e-4, atol=1e-3)


def test_two_sizes_make_neurons_without_activation():
    params = {"fc1": {"kernel": jnp.array([[2.0], [-3.0]]), "bias": jnp.array([-1.0])}}
    assert mlp([2, 1]).apply(params, jnp.array([[1.0, 1.0]])) == -2.0


def test_the_activation_is_the_one_asked_for(drawn: Draw):
    model = mlp([4, 5, 2], jnp.tanh)
    params, x = drawn(model), np.full((1, 4), 0.3, np.float32)
    fc1, fc2 = (jax.tree.map(np.array, params[name]) for name in ("fc1", "fc2"))
    expected = np.tanh(x @ fc1["kernel"] + fc1["bias"]) @ fc2["kernel"] + fc2["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), expected, rtol=1e-5)


def test_kernels_are_inputs_by_outputs():
    shapes = jax.eval_shape(mlp([7, 5, 3]).init, jax.random.key(0))
    assert {path: leaf.shape for path, leaf in tree.leaves(shapes).items()} == {
        "fc1/bias": (5,),
        "fc1/kernel": (7, 5),
        "fc2/bias": (3,),
        "fc2/kernel": (5, 3),
    }


def test_he_initialization_keeps_the_mean_square_through_relu(key: jax.Array):
    kernel = mlp([784, 300]).init(key)["fc1"]["kernel"]
    np.testing.assert_allclose(np.var(kernel), 2 / 784, rtol=0.02)


def test_initializers_are_arguments(key: jax.Array):
    constant = jax.nn.initializers.constant
    params = mlp([3, 2], kernel_init=constant(0.5), bias_init=constant(-1.0)).init(key)
    assert np.all(params["fc1"]["kernel"] == 0.5)
    assert np.all(params["fc1"]["bias"] == -1)


def test_one_size_is_refused():
    with pytest.raises(ValueError, match=r"must name inputs and outputs, got \[784\]"):
        mlp([784])
