"""Orthogonal kernels are isometries: as matrices, at any depth, as convolutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import initializers


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (3, 3, 4, 8), (1, 5)])
def test_all_singular_values_are_the_gain(shape, key):
    kernel = initializers.orthogonal(gain=1.5)(key, shape).reshape(-1, shape[-1])
    np.testing.assert_allclose(singular_values(kernel), 1.5, rtol=1e-5)


def test_bfloat16_is_orthogonal_up_to_rounding(key):
    """A relative rounding error of 2⁻⁹ an entry moves singular values by about as much."""
    kernel = initializers.orthogonal()(key, (64, 64), jnp.bfloat16)
    assert kernel.dtype == jnp.bfloat16
    assert np.max(np.abs(singular_values(kernel.astype(jnp.float32)) - 1)) < 2**-7


def test_orthogonal_matrices_are_uniform(key):
    """Haar: E[trace] = 0 and E[trace²] = 1; QR's own signs would give a negative mean trace."""
    init = initializers.orthogonal()
    keys = jax.random.split(key, 2000)
    traces = jnp.trace(jax.vmap(lambda k: init(k, (4, 4)))(keys), axis1=1, axis2=2)
    assert abs(float(jnp.mean(traces))) < 5 / 2000**0.5
    assert abs(float(jnp.mean(jnp.square(traces))) - 1) < 5 * (2 / 2000) ** 0.5


def product(init, key, *, width, depth):
    factors = (init(k, (width, width)) for k in jax.random.split(key, depth))
    return functools.reduce(np.matmul, (np.asarray(factor, np.float64) for factor in factors))


@pytest.mark.long
def test_products_stay_orthogonal_while_gaussian_ones_collapse(key):
    """n 256, depth 50: published median 3e-8 and mean square near 1 for Gaussian factors."""
    ours = singular_values(product(initializers.orthogonal(), key, width=256, depth=50))
    np.testing.assert_allclose(ours, 1, atol=1e-4)
    gaussian = singular_values(product(initializers.lecun_normal(), key, width=256, depth=50))
    assert 1e-9 < np.median(gaussian) < 1e-6
    assert 4 < gaussian.max() < 20
    assert 0.3 < np.mean(gaussian**2) < 3


@pytest.mark.parametrize("field", [(3,), (3, 3), (4, 4), (3, 3, 3)])
def test_a_delta_orthogonal_convolution_keeps_the_norm(field, key):
    rank = len(field)
    kernel = initializers.delta_orthogonal(gain=2.0)(key, (*field, 4, 6))
    x = jax.random.normal(key, (2, *(5,) * rank, 4))
    spatial = "DHW"[-rank:]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    y = jax.lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers)
    np.testing.assert_allclose(
        jnp.linalg.norm(y, axis=-1), 2 * jnp.linalg.norm(x, axis=-1), rtol=1e-4
    )


def test_only_the_middle_tap_is_not_zero_whatever_the_axes(key):
    kernel = initializers.delta_orthogonal(in_axis=1, out_axis=0)(key, (6, 4, 3, 3))
    np.testing.assert_allclose(kernel[:, :, 1, 1].T @ kernel[:, :, 1, 1], np.eye(4), atol=1e-5)
    assert np.count_nonzero(kernel) == np.count_nonzero(kernel[:, :, 1, 1]) == 24


def test_a_hundred_tanh_convolutions_pass_the_signal_on(key):
    """Xiao et al. 2018: with an even field, Gaussian kernels of equal size lose it."""

    def depth_100(init):
        def layer(x, k):
            kernel = init(k, (3, 16, 16))
            y = jax.lax.conv_general_dilated(
                x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )
            return y, None

        x = jax.random.normal(key, (1, 8, 16))
        y = jax.lax.scan(layer, x, jax.random.split(key, 100))[0]
        return float(jnp.mean(jnp.square(y)) / jnp.mean(jnp.square(x)))

    assert depth_100(initializers.delta_orthogonal()) == pytest.approx(1, rel=1e-3)
    assert depth_100(initializers.lecun_normal()) < 1e-3


def test_more_inputs_than_outputs_have_no_isometry(key):
    with pytest.raises(ValueError, match="8 inputs and 4 outputs"):
        initializers.delta_orthogonal()(key, (3, 8, 4))
    with pytest.raises(ValueError, match="no axis -2"):
        initializers.orthogonal()(key, (8,))
