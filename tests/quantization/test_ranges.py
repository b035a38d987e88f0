"""Where the grid ends: absmax and the least squared error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import quantization
from wlab.quantization import (
    absmax,
    absmean,
    dequantize,
    ggml_q4_0,
    ggml_q4_1,
    int2,
    int4,
    mse,
    quantize,
)

round_to_grid = jax.jit(quantization.round_to_grid, static_argnames=("format", "range_fn"))


def weights(shape=(128, 24)):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def block_errors(x, format, range_fn):
    rounded = np.asarray(round_to_grid(x, format, range_fn=range_fn), np.float64)
    size = format.group_size or x.shape[0]
    return np.square(np.asarray(x) - rounded).reshape(-1, size, x.shape[1]).sum(1)


def test_absmax_includes_zero_and_both_ends():
    x = jnp.array([[1.0, -3.0], [2.0, -1.0]])
    low, high = absmax(x, (0,), int4(symmetric=False))
    np.testing.assert_array_equal((low, high), ([[0, -3]], [[2, 0]]))
    low, high = absmax(x, (0,), int4())
    np.testing.assert_array_equal((low, high), ([[-2, -3]], [[2, 3]]))


def test_absmax_takes_no_more_than_is_there_where_the_minimum_is_stored():
    low, high = absmax(jnp.array([[1.0, -3.0], [2.0, -1.0]]), (0,), ggml_q4_1)
    np.testing.assert_array_equal((low, high), ([[1, -3]], [[2, -1]]))


def test_absmax_takes_the_first_of_the_largest_where_the_scale_has_a_sign():
    x = jnp.array([[1.0, -3.0, 2.0], [-2.0, 3.0, 0.0]])
    low, high = absmax(x, (0,), ggml_q4_0)
    np.testing.assert_array_equal((low, high), ([[-2, -3, 0]], [[0, 0, 2]]))
    low, high = absmax(-x, (0, 1), ggml_q4_0)
    np.testing.assert_array_equal((low, high), ([[0]], [[3]]))


@pytest.mark.parametrize("format", [int4(group_size=8), int4(symmetric=False)], ids=str)
def test_absmean_is_refused_where_it_has_no_meaning(format):
    with pytest.raises(ValueError, match="whole axes on a symmetric grid, got int4"):
        quantization.round_to_grid(weights(), format, range_fn=absmean)


@pytest.mark.parametrize("format", [int4(group_size=32), int2(), int4(symmetric=False)], ids=str)
def test_mse_is_never_worse_than_absmax_in_any_block(format):
    x = weights()
    least, plain = block_errors(x, format, mse()), block_errors(x, format, absmax)
    assert (least <= plain).all()
    assert least.sum() < 0.95 * plain.sum()


def test_mse_finds_what_trying_every_factor_finds():
    x, format, factors = weights(), int2(), (1.0, 0.8, 0.6, 0.4)

    def shrunk(factor):
        return lambda x, axes, format: tuple(end * factor for end in absmax(x, axes, format))

    tried = np.stack([block_errors(x, format, shrunk(np.float32(f))) for f in factors])
    np.testing.assert_allclose(block_errors(x, format, mse(factors)), tried.min(0), rtol=1e-5)


def test_mse_chooses_the_same_under_jit_and_keeps_the_value_law():
    x, format, range_fn = weights(), int4(group_size=50, symmetric=False), mse()
    rounded = round_to_grid(x, format, range_fn=range_fn)
    eager = quantization.round_to_grid(x, format, range_fn=range_fn)
    np.testing.assert_array_equal(eager, rounded)
    np.testing.assert_array_equal(dequantize(quantize(x, format, range_fn=range_fn)), rounded)


@pytest.mark.parametrize("grid", [(0.0, 1.0), (1.1,), (-0.5,)])
def test_factors_out_of_range_are_refused(grid):
    with pytest.raises(ValueError, match="factor"):
        mse(grid)
