"""Task arithmetic, TIES and DARE against the papers' equations and what two programs give.

BASE, DELTAS and the tables beside them were put through PEFT 0.21.2 (`peft.utils.merge_utils`)
and mergekit 0.1.5 (`GeneralizedTaskArithmeticMerge`, magnitude, sum, normalize).
"""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import merging

CONVENTIONS = {
    "mergekit": merging.MERGEKIT,
    "peft": merging.PEFT,
    "peft frequency": merging.PEFT_FREQUENCY,
}
BASE = jnp.array([1.0, -1, 0, 2, 0, 3, -2, 1])
DELTAS = jnp.array(
    [
        [4.0, -3, 1, 0, 2, -1, 6, -5],
        [-5.0, 2, 1, 3, -2, -1, -4, 8],
        [1.0, 4, -7, 2.5, -2, 3, 0, -2],
    ]
)
MODELS = [BASE + delta for delta in DELTAS]
WHAT_THEY_GIVE = [
    ("mergekit", (3.0, 1.0, 1.0), [5, -4, -7, 4.75, 0, 6, 4, -4]),
    ("peft", (3.0, 1.0, 1.0), [-4, 3, -7, 4.75, 0, 6, 16, 9]),
    ("peft frequency", (3.0, 1.0, 1.0), [13, 3, -7, 4.75, 0, 6, 16, 9]),
    ("mergekit", (1.0, 1.0, 1.0), [-4, 3, -7, 4.75, 0, 6, 4, 9]),
    ("peft", (1.0, 1.0, 1.0), [-4, 3, -7, 4.75, 0, 6, 4, 9]),
    ("peft frequency", (1.0, 1.0, 1.0), [5, 3, -7, 4.75, 0, 6, 4, 9]),
]


@pytest.mark.parametrize(("name", "weights", "expected"), WHAT_THEY_GIVE)
def test_ties_gives_what_the_program_gives_that_the_convention_is_named_after(
    name, weights, expected
):
    merged = merging.ties(BASE, MODELS, weights, density=0.5, convention=CONVENTIONS[name])
    np.testing.assert_array_equal(merged, expected)


@pytest.mark.parametrize(
    ("name", "expected"), [("mergekit", 1.0), ("peft", -2.0), ("peft frequency", 3.0)]
)
def test_the_conventions_part_on_one_entry(name, expected):
    """By hand: +1 at weight 3 against -2 at weight 1.

    Weighted votes 3 - 2 elect +, and 3·1/3 = 1. Unweighted votes 1 - 2 elect -, and 1·(-2)/1.
    One sign against one is a draw, which elects +, and 3·1/1 = 3.
    """
    models = [jnp.array([1.0]), jnp.array([-2.0])]
    merged = merging.ties(
        jnp.zeros(1), models, (3.0, 1.0), density=1.0, convention=CONVENTIONS[name]
    )
    np.testing.assert_array_equal(merged, [expected])


def ties_of_the_paper(base: np.ndarray, models: np.ndarray, k: int, scale: float) -> np.ndarray:
    """Algorithm 1 entry by entry: trim to k, elect by the sum, mean over those who agree."""
    trimmed = []
    for delta in models - base:
        order = sorted(range(delta.size), key=lambda i: (-abs(delta[i]), i))
        trimmed.append([delta[i] if i in order[:k] else 0.0 for i in range(delta.size)])
    merged = np.array(base, np.float64)
    for i, entries in enumerate(zip(*trimmed, strict=True)):
        elected = 1.0 if sum(entries) >= 0 else -1.0
        agreeing = [entry for entry in entries if entry * elected > 0]
        merged[i] += scale * (sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


@pytest.mark.parametrize("convention", [merging.MERGEKIT, merging.PEFT])
@given(x=hnp.arrays(np.float32, (4, 10), elements=st.integers(-9, 9).map(float)))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_equal_weights_give_the_paper_under_both_conventions(convention, x):
    base, models = x[0], x[1:]
    merged = merging.ties(
        jnp.asarray(base), list(jnp.asarray(models)), density=0.4, convention=convention, scale=0.5
    )
    np.testing.assert_allclose(merged, ties_of_the_paper(base, models, 4, 0.5), rtol=1e-6)


@pytest.mark.parametrize("name", CONVENTIONS)
@given(
    x=hnp.arrays(np.float32, (3, 8), elements=st.integers(-8, 8).map(float)),
    order=st.permutations([0, 1, 2]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_ties_does_not_depend_on_the_order_of_the_models(name, x, order):
    models, weights = list(jnp.asarray(x)), (1.0, 2.0, 0.5)
    base = jnp.zeros(8)
    kwargs = {"density": 0.5, "convention": CONVENTIONS[name]}
    moved = merging.ties(base, [models[i] for i in order], [weights[i] for i in order], **kwargs)
    np.testing.assert_array_equal(moved, merging.ties(base, models, weights, **kwargs))


def test_ties_of_one_model_at_density_one_is_task_arithmetic():
    base, x = jax.random.normal(jax.random.key(0), (2, 6, 5))
    for convention in CONVENTIONS.values():
        merged = merging.ties(base, [x], density=1.0, convention=convention, scale=0.3)
        np.testing.assert_array_equal(merged, merging.task_arithmetic(base, [x], 0.3))


def test_task_arithmetic_adds_and_takes_away():
    base, a, b = np.random.default_rng(0).standard_normal((3, 4, 5))
    twin = base + 0.7 * (a - base) - 0.2 * (b - base)
    merged = merging.task_arithmetic(
        jnp.float32(base), [jnp.float32(a), jnp.float32(b)], (0.7, -0.2)
    )
    np.testing.assert_allclose(merged, twin, atol=1e-6)


def test_half_precision_differences_are_taken_in_float32():
    # 1/3 of the step between two neighbours of bfloat16, six times over, is two steps.
    base, x = jnp.array([1.0], jnp.bfloat16), jnp.array([1.0078125], jnp.bfloat16)
    merged = merging.task_arithmetic(base, [x] * 6, 1 / 3)
    assert merged.dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged, [1.015625])


def test_trim_keeps_exactly_k_and_ties_go_to_the_lower_index():
    delta = jnp.array([[1.0, -2.0, 2.0], [0.5, 2.0, -1.0]])
    np.testing.assert_array_equal(merging.trim(delta, 0.34), [[0, -2, 2], [0, 0, 0]])
    np.testing.assert_array_equal(merging.trim(jnp.ones(4), 0.5), [1, 1, 0, 0])
    np.testing.assert_array_equal(merging.trim(delta, 1.0), delta)


EXTREME = [0.0, -0.0, 1e-45, -1e-38, 1.0, -1.0, 0.5, 3e38, -3e38]


@given(
    hnp.arrays(np.float32, (4, 9), elements=st.sampled_from(EXTREME) | st.floats(-9, 9, width=32)),
    st.integers(1, 36),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_trim_is_a_stable_descending_sort(delta, k):
    order = np.argsort(-np.abs(delta.ravel()), kind="stable")
    expected = np.zeros(36, np.float32)
    expected[order[:k]] = delta.ravel()[order[:k]]
    trimmed = merging.trim(jnp.asarray(delta), k / 36)
    np.testing.assert_array_equal(trimmed, expected.reshape(delta.shape))


def test_trim_in_float64_and_under_jit():
    x = np.random.default_rng(3).standard_normal((30, 30))
    with jax.enable_x64(True):
        kept = jax.jit(lambda x: merging.trim(x, 0.1))(jnp.asarray(x))
        assert kept.dtype == jnp.float64
    threshold = np.sort(np.abs(x).ravel())[-90]
    np.testing.assert_array_equal(kept, np.where(np.abs(x) >= threshold, x, 0))


@given(st.integers(1, 400), st.sampled_from([0.001, 0.01, 0.1, 0.15, 0.2, 0.3, 0.7, 0.99, 1.0]))
def test_no_leaf_is_emptied_and_none_is_kept_whole_by_a_float_error(size, density):
    exact = (2 * size * round(density * 1000) + 1000) // 2000  # size · density, half up
    assert merging.num_kept(size, density) == max(1, exact)


def test_short_leaves_keep_what_they_learned_most():
    # At the densities people use, rounding down would keep nothing of these.
    base = jnp.zeros(3)
    x = jnp.array([0.1, -0.3, 0.2])
    np.testing.assert_array_equal(merging.ties(base, [x], density=0.1), jnp.array([0, -0.3, 0]))
    assert merging.trim(jnp.ones(()), 0.01) == 1
    assert merging.trim(jnp.zeros((0, 3)), 0.5).shape == (0, 3)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_densities_outside_are_refused(density):
    with pytest.raises(ValueError, match=r"fraction kept, in \(0, 1\]; got"):
        merging.trim(jnp.ones(3), density)
    with pytest.raises(ValueError, match=r"fraction kept, in \(0, 1\]; got"):
        merging.drop(jnp.ones(3), density, jax.random.key(0))


def test_dare_keeps_entries_enlarged_or_not_at_all(key):
    dropped = np.asarray(merging.drop(jnp.full(10_000, 2.0), 0.25, key))
    assert set(np.unique(dropped)) == {0.0, 8.0}
    # The count is binomial: four standard errors of sqrt(n p (1-p)) = 43.3.
    assert abs((dropped != 0).sum() - 2500) < 4 * 43.3


def test_dare_is_unbiased(key):
    """The mean over 2000 draws of each entry, within five standard errors."""
    base, x = jnp.array([1.0, -2.0, 0.5, 3.0]), jnp.array([2.0, -2.0, -0.5, 7.0])
    draws = jax.vmap(lambda k: merging.dare(base, [x], 0.5, density=0.2, key=k))(
        jax.random.split(key, 2000)
    )
    delta = np.asarray(x - base)
    error = 0.5 * np.abs(delta) * np.sqrt((1 / 0.2 - 1) / 2000)
    assert (np.abs(np.mean(draws, 0) - np.asarray(base) - 0.5 * delta) <= 5 * error + 1e-6).all()
    assert np.std(np.asarray(draws)[:, 0]) > 0.5  # it does draw


def test_dare_draws_by_key_and_by_model(key):
    base, x = jnp.zeros(200), jnp.ones(200)
    once, twice = (merging.dare(base, [x], density=0.5, key=key) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    other = merging.dare(base, [x], density=0.5, key=jax.random.key(1))
    assert (once != other).any()
    # Two models: were the draws one and the same, no entry would be kept in one model only.
    assert set(np.unique(merging.dare(base, [x, x], density=0.5, key=key))) == {0.0, 2.0, 4.0}


def test_dare_at_density_one_drops_nothing(key):
    np.testing.assert_array_equal(
        merging.dare(BASE, MODELS, 0.3, density=1.0, key=key),
        merging.task_arithmetic(BASE, MODELS, 0.3),
    )
    for convention in CONVENTIONS.values():
        np.testing.assert_array_equal(
            merging.dare(BASE, MODELS, density=1.0, key=key, convention=convention),
            merging.ties(BASE, MODELS, density=1.0, convention=convention),
        )
