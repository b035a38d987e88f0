"""Percentiles of blocks against a sort in NumPy, and what they leave out."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from wlab import quantization
from wlab.quantization import absmax, binary, dequantize, ggml_q4_0, ggml_q4_1, int4, percentile
from wlab.quantization.percentiles import largest

quantize = jax.jit(quantization.quantize, static_argnames=("format", "range_fn"))
EVEN, ZERO, FREE, ONE_END = int4(), int4(symmetric=False), ggml_q4_1, ggml_q4_0


def at(entries, percent):
    """The percentile by sorting, its place in exact fractions."""
    if not len(entries):
        return np.float32(0)
    beyond = (len(entries) - 1) * (100 - Fraction(str(percent))) / 100
    return np.sort(entries)[len(entries) - 1 - int(beyond)]


def twin(column, percent, format):
    counted = column if format.grid.reach == "free" else column[column != 0]
    end = at(np.abs(counted), percent)
    if format.grid.reach == "even":
        return -end, end
    if format.grid.reach == "one_end":
        negative = column[np.abs(column).argmax()] < 0
        return (-end, 0) if negative else (0, end)
    low, high = -at(-counted, percent), at(counted, percent)
    return (low, high) if format.grid.reach == "free" else (min(low, 0), max(high, 0))


def weights(rows=201, columns=12):
    x = np.random.default_rng(0).standard_t(3, (rows, columns)).astype(np.float32)
    x[:, 0], x[:, 1], x[:, 2] = np.abs(x[:, 0]), -np.abs(x[:, 1]), 0
    x[::2, 3], x[:, 4], x[1:, 5] = 0, np.round(x[:, 4]), 0
    return x


@pytest.mark.parametrize("format", [EVEN, ZERO, FREE, ONE_END], ids=str)
@pytest.mark.parametrize("percent", [60, 99, 99.5, 99.9])
def test_the_range_ends_at_the_percentile_found_by_sorting(format, percent):
    x = weights()
    expected = np.array([twin(column, percent, format) for column in x.T], np.float32).T
    for run in (percentile(percent), jax.jit(percentile(percent), static_argnums=(1, 2))):
        low, high = run(jnp.asarray(x), (0,), format)
        np.testing.assert_array_equal(np.concatenate([low, high]), expected)


@pytest.mark.parametrize("percent", [75, 90, 99])
def test_it_is_the_higher_percentile_of_numpy(percent):
    x = weights()[:, 6:]
    _, high = percentile(percent)(jnp.asarray(x), (0,), EVEN)
    np.testing.assert_array_equal(high[0], np.percentile(np.abs(x), percent, 0, method="higher"))


@pytest.mark.parametrize("format", [EVEN, ZERO, FREE, ONE_END], ids=str)
@pytest.mark.parametrize("rows", [1, 37])
def test_a_hundred_is_absmax_and_so_is_all_of_a_small_block(format, rows):
    x = jnp.asarray(weights(rows))
    plain = absmax(x, (0,), format)
    np.testing.assert_array_equal(percentile(100)(x, (0,), format), plain)
    np.testing.assert_array_equal(percentile(99)(x, (0,), format), plain)


def test_a_tenth_of_a_percent_is_counted_in_whole_numbers():
    x = jnp.asarray(np.random.default_rng(0).permutation(100_001), jnp.float32)[None]
    for percent, left_out in ((99.9, 100), (99.99, 10), (99, 1000), (90, 10_000)):
        _, high = percentile(percent)(x, (1,), FREE)
        assert float(high[0, 0]) == 100_000 - left_out


def test_pruned_weights_do_not_count():
    x, run = weights(50)[:, 6:], jax.jit(percentile(90), static_argnums=(1, 2))
    pruned = np.concatenate([x, np.zeros((500, 6), np.float32)])
    np.testing.assert_array_equal(run(pruned, (0,), EVEN), run(x, (0,), EVEN))


def test_neither_does_what_fills_up_a_short_last_group():
    x = np.concatenate([np.ones(40), np.arange(1, 11)]).astype(np.float32)[:, None]
    q = quantize(x, int4(group_size=40), range_fn=percentile(75))
    np.testing.assert_allclose(q.scale[:, 0], [1 / 7, 8 / 7], rtol=2**-15)


def test_zeros_count_where_the_grid_has_none():
    x = jnp.concatenate([jnp.zeros((90, 1)), jnp.ones((10, 1))])
    _, high = percentile(80)(x, (0,), binary(axis=0))
    assert float(high[0, 0]) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_its_block_nan(bad):
    x = jnp.asarray(weights()).at[7, 3].set(bad)
    for format in (EVEN, ZERO):
        rounded = dequantize(quantize(x, format, range_fn=percentile(90)))
        assert np.isnan(rounded[:, 3]).all()
        assert np.isfinite(np.delete(np.asarray(rounded), 3, 1)).all()


def test_an_outlier_no_longer_costs_the_others_their_precision():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1000, 1)), jnp.float32)
    x = x.at[0].set(50.0)
    kept = quantization.round_to_grid(x, int4(), range_fn=percentile(99.5))
    plain = quantization.round_to_grid(x, int4())
    assert np.square(kept - x)[1:].mean() < 0.05 * np.square(plain - x)[1:].mean()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=6, max_size=6
    ),
    st.integers(0, 5),
)
def test_largest_is_an_entry_of_the_descending_sort(entries, rank):
    x = np.asarray(entries, np.float32)
    found = largest(jnp.asarray(x), jnp.ones(6, bool), jnp.full((1,), rank), (0,))
    assert float(found[0]) == float(np.sort(x)[::-1][rank])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("format", [int4(), int4(axis=None, symmetric=False)], ids=str)
def test_eight_devices_find_what_one_finds(axis_type, format):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type, axis_type))
    x = jnp.asarray(weights(200))
    there = jax.device_put(x, jax.NamedSharding(mesh, jax.P("a", "b")))
    run = jax.jit(lambda x: quantization.round_to_grid(x, format, range_fn=percentile(95)))
    np.testing.assert_array_equal(run(there), run(x))


@pytest.mark.parametrize("percent", [50, 0, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percent):
    with pytest.raises(ValueError, match="above 50, at most 100"):
        percentile(percent)
