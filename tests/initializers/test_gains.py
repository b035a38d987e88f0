"""Gains are the published ones, and He's criterion agrees with them where it made them."""

import math

import jax
import jax.numpy as jnp
import pytest

from wlab.initializers import gain


@pytest.mark.parametrize(
    ("name", "published"),
    [("linear", 1), ("sigmoid", 1), ("tanh", 5 / 3), ("relu", math.sqrt(2)), ("selu", 0.75)],
)
def test_gains_in_common_use(name, published):
    assert gain(name) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.2, 1.0])
def test_leaky_relu_goes_from_relu_to_linear_with_its_slope(slope):
    assert gain("leaky_relu", slope=slope) == pytest.approx(math.sqrt(2 / (1 + slope**2)))
    by_criterion = gain(lambda z: jnp.where(z < 0, slope * z, z))
    assert by_criterion == pytest.approx(gain("leaky_relu", slope=slope), rel=1e-4)


def test_gains_of_functions_by_closed_forms():
    """E[relu²] = 1/2, E[erf(z)²] = (2/π) asin(2/3); selu is built to keep the second moment."""
    assert gain(jax.nn.relu) == pytest.approx(math.sqrt(2), rel=1e-4)
    erf_square = 2 / math.pi * math.asin(2 / 3)
    assert gain(jax.lax.erf) == pytest.approx(erf_square**-0.5, rel=1e-4)
    assert gain(jax.nn.selu) == pytest.approx(1, rel=1e-4)


def test_a_function_has_its_gain_inside_jit_too():
    assert float(jax.jit(lambda: gain(jax.nn.relu))()) == pytest.approx(math.sqrt(2), rel=1e-4)


def test_an_unknown_nonlinearity_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'swish'; known: leaky_relu, linear, relu.*jax.nn.gelu"):
        gain("swish")
