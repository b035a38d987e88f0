"""Streamed statistics against numpy's own, in float64."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wlab.inspection import LeafStats, leaf_stats, merged

FLOATS = st.floats(width=32, allow_subnormal=False)
CHUNK = 1 << 20


@settings(deadline=None)
@given(arrays(np.float32, st.integers(0, 50), elements=FLOATS))
def test_statistics_are_those_of_numpy(x: np.ndarray):
    stats, finite = leaf_stats(x), x[np.isfinite(x)].astype(np.float64)
    assert stats.size == x.size
    assert stats.zeros == (x == 0).sum()
    assert (stats.nan, stats.inf) == (np.isnan(x).sum(), np.isinf(x).sum())
    if finite.size:
        assert stats.absmax == np.abs(finite).max()
        np.testing.assert_allclose(stats.mean, finite.mean(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(stats.std, finite.std(), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(arrays(np.float32, st.integers(0, 50), elements=FLOATS), st.integers(0, 50))
def test_parts_merge_into_the_whole(x: np.ndarray, cut: int):
    together, whole = merged([leaf_stats(x[:cut]), leaf_stats(x[cut:])]), leaf_stats(x)
    assert (together.size, together.zeros, together.nan, together.inf, together.absmax) == (
        whole.size,
        whole.zeros,
        whole.nan,
        whole.inf,
        whole.absmax,
    )
    scale = whole.absmax
    np.testing.assert_allclose(together.mean, whole.mean, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(together.std, whole.std, rtol=1e-9, atol=1e-9 * scale)


def test_a_leaf_of_several_chunks_far_from_zero_loses_no_digits():
    """Σx² - (Σx)²/n in float64 would keep no digit of this variance."""
    x = np.tile([-1.0, 1.0], CHUNK + 3) + 1e9
    stats = leaf_stats(x)
    assert (stats.size, stats.mean) == (2 * CHUNK + 6, 1e9)
    np.testing.assert_allclose(stats.std, 1, rtol=1e-9)


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.float16, np.int8, np.uint8],
)
def test_narrow_dtypes_are_exact(dtype: type):
    stats = leaf_stats(np.array([[0, 1], [3, 4]], dtype))
    assert (stats.mean, stats.absmax, stats.density) == (2.0, 4.0, 0.75)
    assert stats.std == np.sqrt(2.5)


def test_counts_are_exact_where_bfloat16_would_stop_at_256():
    stats = leaf_stats(np.zeros(1000, ml_dtypes.bfloat16))
    assert (stats.zeros, stats.density) == (1000, 0.0)


def test_bools_count_as_ones_and_complex_entries_by_magnitude():
    assert leaf_stats(np.array([True, False])).mean == 0.5
    assert leaf_stats(np.array([3 + 4j, 0j])).absmax == 5.0


def test_a_leaf_without_finite_entries_has_counts_only():
    stats = leaf_stats(np.array([np.nan, np.inf, -np.inf]))
    assert (stats.nan, stats.inf, stats.finite) == (1, 2, 0)
    assert (stats.mean, stats.std, stats.absmax) == (0.0, 0.0, 0.0)


def test_an_empty_leaf_is_dense():
    assert leaf_stats(np.zeros((0, 3))) == LeafStats()
    assert LeafStats().density == 1
