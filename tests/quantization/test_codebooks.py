"""Listed values, and the values that k-means finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.stats import norm

from wlab import quantization
from wlab.quantization import (
    NF4,
    Codebook,
    Format,
    dequantize,
    kmeans,
    nearest_code,
    nf4,
    quantize,
    shared_weights,
    sqnr,
    unpack,
)

round_to_grid = jax.jit(quantization.round_to_grid, static_argnames="format")


def test_nf4_is_the_paper_s_construction():
    """Appendix E: quantiles of N(0, 1), 8 below and 9 above zero, from 1 − (1/30 + 1/32) / 2."""
    offset = 1 - (1 / 30 + 1 / 32) / 2
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    made = np.sort(np.concatenate([above, [0], below])) / above.max()
    np.testing.assert_allclose(NF4, made, atol=2e-7)
    assert len(set(NF4)) == 16 and NF4[7] == 0


def test_values_midway_go_to_the_side_that_was_named():
    x = jnp.array([-2.0, -1.0, 0.0, 1.0, 1.5, 2.0], jnp.float32)
    for ties, expected in (("lower", [-2, -2, -2, 0, 2, 2]), ("upper", [-2, 0, 0, 2, 2, 2])):
        expected = [-2, -2 if ties == "lower" else 0, 0, 0 if ties == "lower" else 2, 2, 2]
        found = round_to_grid(x, Format(Codebook((-2.0, 0.0, 2.0), ties=ties)))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_looking_up_works_on_a_mesh(axis_type):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((128, 48)), jnp.float32)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    placed = jax.device_put(x, NamedSharding(mesh, P("d", None)))
    with jax.set_mesh(mesh):
        found = round_to_grid(placed, nf4(group_size=16))
        q = jax.jit(quantize, static_argnames="format")(placed, nf4(group_size=16))
    np.testing.assert_array_equal(found, round_to_grid(x, nf4(group_size=16)))
    np.testing.assert_array_equal(dequantize(q), found)
    assert found.sharding.is_equivalent_to(placed.sharding, 2)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"values": (1.0,)}, "2 to 256 values, got 1"),
        ({"values": (1.0, 0.0)}, "ascend"),
        ({"values": (0.0, np.inf)}, "finite"),
        ({"ties": "even"}, "'even'"),
        ({"end": 0.5}, "end must be no smaller"),
    ],
    ids=str,
)
def test_lists_that_mean_nothing_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        Codebook(**{"values": (-1.0, 0.0, 1.0), **fields})


def lloyd(x, count, iterations):
    """One entry and one centroid at a time, in float64."""
    centroids = np.linspace(x.min(), x.max(), count)
    for _ in range(iterations):
        nearest = np.abs(x[:, None] - centroids).argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centroids[k] = x[nearest == k].mean()
    return centroids


def test_kmeans_is_lloyd_s_from_linear_centroids():
    x = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    found = kmeans(jnp.asarray(x.reshape(20, 25)), 8, iterations=20)
    np.testing.assert_allclose(found, lloyd(x.astype(np.float64), 8, 20), atol=1e-5)
    codes = nearest_code(jnp.asarray(x), found)
    np.testing.assert_array_equal(codes, np.abs(x[:, None] - np.asarray(found)).argmin(1))


def test_more_iterations_make_the_error_smaller():
    x = jnp.asarray(np.random.default_rng(1).standard_normal(400), jnp.float32)

    def error(iterations):
        found = kmeans(x, 4, iterations=iterations)
        return float(jnp.sum(jnp.square(x - found[nearest_code(x, found)])))

    first, second, last = (error(i) for i in (1, 2, 20))
    assert first > second > last
    assert last < 0.95 * first


def test_entries_left_out_do_not_count_and_empty_clusters_stay():
    x = jnp.array([-100.0, 0.0, 0.1, 10.0, 10.2], jnp.float32)
    found = kmeans(x, 3, where=x > -50)
    np.testing.assert_allclose(found, [0.05, 5.1, 10.1], rtol=1e-6)


def test_shared_weights_beat_an_even_grid_and_keep_zeros_on_request():
    rng = np.random.default_rng(0)
    x = np.where(rng.random((64, 64)) < 0.3, rng.laplace(size=(64, 64)), 0).astype(np.float32)
    x = jnp.asarray(x)
    format = shared_weights(x, 4, keep_zero=True)
    assert isinstance(format.grid, Codebook)
    assert (len(format.grid.values), format.grid.bits) == (16, 4)
    rounded = np.asarray(round_to_grid(x, format))
    assert not rounded[np.asarray(x) == 0].any()
    assert len(np.unique(rounded)) <= 16
    even = sqnr(x, quantization.int4(axis=None))
    assert float(sqnr(x, format)) > float(even) + 3
    q = quantize(x, format)
    assert q.codes.shape == (64, 32) and unpack(q.codes, 4, 64).max() == 15
    np.testing.assert_array_equal(dequantize(q), rounded)


def test_shared_weights_lie_where_kmeans_put_them():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 40)), jnp.float32)
    found = kmeans(x, 8)
    expected = np.asarray(found)[np.asarray(nearest_code(x, found))]
    np.testing.assert_allclose(round_to_grid(x, shared_weights(x, 3)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: kmeans(jnp.ones(3), 0), "count and iterations"),
        (lambda: shared_weights(jnp.ones(3), 9), "bits must be 1 to 8"),
        (lambda: shared_weights(jnp.array([1.0, jnp.nan]), 2), "magnitude is nan"),
        (lambda: shared_weights(jnp.zeros(3), 2), "nothing to share"),
        (lambda: shared_weights(jnp.ones(3), 2), "one value"),
    ],
)
def test_what_cannot_be_shared_is_refused(build, named):
    with pytest.raises(ValueError, match=named):
        build()
