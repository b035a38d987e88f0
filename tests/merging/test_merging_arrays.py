"""Linear, slerp and model stock against NumPy in float64, closed forms and exact cases."""

import itertools

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import merging

SMALL_INTEGERS = st.integers(-64, 64).map(float)


def leaves(seed: int, count: int, shape=(5, 7), dtype=jnp.float32) -> list[jax.Array]:
    drawn = np.random.default_rng(seed).standard_normal((count, *shape))
    return [jnp.asarray(x, dtype) for x in drawn]


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_is_the_weighted_mean_or_sum(normalize):
    xs, weights = leaves(0, 3), (0.5, -0.25, 2.0)
    twin = np.einsum("i,i...", weights, np.float64(xs)) / (sum(weights) if normalize else 1)
    merged = merging.linear(xs, weights, normalize=normalize)
    np.testing.assert_allclose(merged, twin, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_the_mean_of_copies_is_the_copy_in_half_precision(dtype, count):
    x = jnp.asarray(np.random.default_rng(1).standard_normal(4096) * 100, dtype)
    merged = merging.linear([x] * count)
    assert merged.dtype == dtype
    np.testing.assert_array_equal(merged, x)


def test_the_mean_of_copies_in_float32_is_exact_for_two_and_close_for_more():
    (x,) = leaves(2, 1, (4096,))
    np.testing.assert_array_equal(merging.linear([x, x]), x)
    for count in (3, 4, 8):
        merged = np.asarray(merging.linear([x] * count))
        np.testing.assert_array_max_ulp(merged, np.asarray(x), count - 1)


def test_a_weight_of_one_among_zeros_picks_that_model():
    xs = leaves(3, 3)
    np.testing.assert_array_equal(merging.linear(xs, (0.0, 1.0, 0.0)), xs[1])


def test_sums_are_kept_in_float32_and_rounded_once():
    # 256 + 1 is 256 in bfloat16: a running sum in the leaves' dtype would stay at 256.
    xs = [jnp.full(3, value, jnp.bfloat16) for value in (256, 1, 1, 1, 1)]
    np.testing.assert_array_equal(merging.linear(xs, normalize=False), np.full(3, 260.0))


@given(hnp.arrays(np.float32, (4, 6), elements=SMALL_INTEGERS), st.permutations([0, 1, 2, 3]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_mean_does_not_depend_on_the_order_of_the_models(x, order):
    # Small integers add up exactly, so that the order can be asked for to the last bit.
    weights = (1.0, 2.0, 4.0, 1.0)
    xs = [jnp.asarray(row) for row in x]
    moved = merging.linear([xs[i] for i in order], [weights[i] for i in order])
    np.testing.assert_array_equal(moved, merging.linear(xs, weights))


def test_weights_must_be_as_many_as_the_models():
    with pytest.raises(ValueError, match=r"2 weights \[1.0, 2.0\] for 3 models"):
        merging.linear(leaves(0, 3), (1.0, 2.0))


def test_weights_may_be_arrays_and_traced():
    xs = leaves(4, 2)
    traced = jax.jit(lambda w: merging.linear(xs, w))(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(traced, merging.linear(xs, (1.0, 3.0)), rtol=1e-6)


def slerp_twin(a, b, t):
    a, b = np.float64(a), np.float64(b)
    angle = np.arccos(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_slerp_follows_shoemakes_formula_over_the_whole_leaf(t):
    a, b = leaves(5, 2)
    np.testing.assert_allclose(merging.slerp(a, b, t), slerp_twin(a, b, t), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_slerp_ends_are_the_models_to_the_bit(dtype):
    a, b = leaves(6, 2, dtype=dtype)
    np.testing.assert_array_equal(merging.slerp(a, b, 0.0), a)
    np.testing.assert_array_equal(merging.slerp(a, b, 1.0), b)


@given(st.floats(0, 1), st.floats(0.04, np.pi - 0.04))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_slerp_stays_on_the_circle_at_the_angle_t_theta(t, angle):
    a = jnp.array([1.0, 0.0])
    b = jnp.array([np.cos(angle), np.sin(angle)], jnp.float32)
    point = merging.slerp(a, b, t)
    np.testing.assert_allclose(point, [np.cos(t * angle), np.sin(t * angle)], atol=5e-5)
    assert abs(np.linalg.norm(point) - 1) < 5e-5


def test_slerp_is_the_same_from_the_other_end():
    a, b = leaves(7, 2)
    np.testing.assert_allclose(merging.slerp(a, b, 0.3), merging.slerp(b, a, 0.7), atol=1e-6)


def test_slerp_takes_the_line_between_parallel_opposite_and_zero_vectors():
    a, b = jnp.array([3.0, 4.0]), jnp.array([6.0, 8.0])
    np.testing.assert_allclose(merging.slerp(a, b, 0.25), [3.75, 5.0], rtol=1e-6)
    np.testing.assert_allclose(merging.slerp(a, -b, 0.25), [0.75, 1.0], rtol=1e-6)
    zero = jnp.zeros(2)
    np.testing.assert_allclose(merging.slerp(a, zero, 0.25), [2.25, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(merging.slerp(zero, zero, 0.25), zero)
    assert merging.slerp(jnp.zeros((0, 3)), jnp.zeros((0, 3)), 0.5).shape == (0, 3)


def simplex(count: int, cosine: float) -> np.ndarray:
    """Unit vectors with one and the same cosine between every two."""
    gram = np.full((count, count), cosine) + (1 - cosine) * np.eye(count)
    return np.linalg.cholesky(gram)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9])
def test_model_stock_takes_the_ratio_of_the_paper(count, cosine):
    base = np.linspace(-1, 1, count)
    models = base + simplex(count, cosine)
    t = count * cosine / ((count - 1) * cosine + 1)
    merged = merging.model_stock(
        jnp.asarray(base, jnp.float32), [jnp.asarray(x, jnp.float32) for x in models]
    )
    np.testing.assert_allclose(merged, t * models.mean(0) + (1 - t) * base, atol=1e-6)


def test_model_stock_averages_the_cosines_of_all_pairs():
    base, *models = leaves(8, 4, (40,))
    models = [x + 2 for x in models]  # a common direction, so that cosines are positive
    deltas = [np.float64(x) - np.float64(base) for x in models]
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(deltas, 2)
    ]
    assert min(cosines) > 0
    t = 3 * np.mean(cosines) / (2 * np.mean(cosines) + 1)
    twin = t * np.mean(np.float64(models), 0) + (1 - t) * np.float64(base)
    np.testing.assert_allclose(merging.model_stock(base, models), twin, atol=1e-6)


def test_model_stock_of_copies_is_the_copy_and_of_opposites_the_base():
    base, x = leaves(9, 2)
    np.testing.assert_allclose(merging.model_stock(base, [x, x]), x, atol=1e-6)
    mirrored = 2 * base - x
    np.testing.assert_array_equal(merging.model_stock(base, [x, mirrored]), base)
    np.testing.assert_array_equal(merging.model_stock(base, [base, base]), base)


def test_model_stock_knows_no_angle_of_one_model():
    base, x = leaves(10, 2)
    with pytest.raises(ValueError, match="two models or more span an angle, got 1"):
        merging.model_stock(base, [x])
