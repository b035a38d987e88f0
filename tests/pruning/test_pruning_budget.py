"""Densities, schedules and budgets: integers, published values, exact sums."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import pruning

LENET = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}


@pytest.mark.parametrize(
    ("size", "density", "k"),
    [
        (40_000_003, 1 - 0.9, 4_000_000),  # float32 arithmetic keeps 4,000,001
        (5, 0.1, 1),
        (10, 0.15, 2),
        (10, "1/3", 3),
        (100_000_000, 0.9, 90_000_000),
        (7, 0, 0),
        (7, 1, 7),
    ],
)
def test_kept_rounds_the_written_decimal_half_up(size, density, k):
    assert pruning.kept(size, Fraction(density) if isinstance(density, str) else density) == k


def test_kept_gives_the_layers_of_han_2015():
    densities = {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}
    kept = {p: pruning.kept(int(np.prod(LENET[p])), d) for p, d in densities.items()}
    assert kept == {"fc1": 18_816, "fc2": 2_700, "fc3": 260}
    assert sum(kept.values()) == 21_776


traced_kept = jax.jit(pruning.kept, static_argnums=0)


@pytest.mark.parametrize("size", [1, 999, 40_000_003, 2**31 - 1])
def test_a_traced_density_is_rounded_from_the_exact_product(size):
    rng = np.random.default_rng(0)
    for density in [*rng.random(20), 0.0, 0.5, 0.25, 1.0, 1 / 256, np.nextafter(np.float32(1), 0)]:
        density = np.float32(density)
        wanted = int(size * Fraction(float(density)) + Fraction(1, 2))
        got = int(traced_kept(size, density))
        assert got == wanted if density >= 2**-8 or density == 0 else abs(got - wanted) <= 1


def test_a_traced_density_is_clipped():
    assert [int(traced_kept(10, d)) for d in (-1.0, 2.0)] == [0, 10]


def test_cubic_is_the_published_curve():
    schedule = pruning.cubic(1.0, 0.1, end=1000)
    sparsity = [1 - float(schedule(t)) for t in (0, 100, 200, 500, 900, 1000)]
    np.testing.assert_allclose(sparsity, [0, 0.2439, 0.4392, 0.7875, 0.8991, 0.9], atol=1e-6)
    assert float(schedule(5000)) == np.float32(0.1)


def test_cubic_waits_for_its_begin_and_may_take_no_time():
    schedule = pruning.cubic(0.8, 0.2, begin=10, end=20)
    assert float(schedule(3)) == np.float32(0.8)
    assert float(pruning.cubic(0.8, 0.2, begin=10, end=10)(10)) == np.float32(0.2)


def test_iterative_multiplies_and_ends_on_the_target():
    schedule = pruning.iterative(0.512, rounds=3, every=50, begin=100)
    steps = [99, 100, 149, 150, 199, 200, 10_000]
    got = [float(schedule(t)) for t in steps]
    np.testing.assert_allclose(got, [1, 0.8, 0.8, 0.64, 0.64, 0.512, 0.512], rtol=1e-6)
    assert (schedule.begin, schedule.end, schedule.final) == (100, 200, 0.512)


def test_oneshot_and_constant_are_steps():
    assert [float(pruning.oneshot(0.25, at=7)(t)) for t in (6, 7, 8)] == [1.0, 0.25, 0.25]
    assert pruning.constant(0.25)(0) == 0.25
    assert pruning.constant(0.25).end == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pruning.constant(1.1), r"final density .* in \[0, 1\]; got 1.1"),
        (lambda: pruning.oneshot(-0.1, at=3), "got -0.1"),
        (lambda: pruning.cubic(1.5, 0.1, end=9), "initial density"),
        (lambda: pruning.cubic(1.0, float("nan"), end=9), "got nan"),
        (lambda: pruning.cubic(1.0, 0.1, begin=9, end=3), "begin <= end"),
        (lambda: pruning.oneshot(0.1, at=-1), "begin <= end"),
        (lambda: pruning.iterative(0.1, rounds=0, every=5), "rounds"),
        (lambda: pruning.kept(10, 1.5), r"in \[0, 1\]; got 1.5"),
    ],
)
def test_bad_numbers_are_refused_by_the_factory(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_traced_density_makes_a_schedule():
    densities = jax.jit(lambda d: pruning.cubic(1.0, d, end=10)(jnp.int32(10)))(jnp.float32(0.3))
    assert densities == np.float32(0.3)


def counts_of(allocation, shapes, density) -> dict[tuple[str, ...], int]:
    return {budget.paths: int(budget.k) for budget in allocation(shapes, density)}


def test_uniform_and_global_budgets():
    assert counts_of(pruning.uniform, LENET, 0.08) == {
        ("fc1",): 18_816,
        ("fc2",): 2_400,
        ("fc3",): 80,
    }
    assert counts_of(pruning.globally, LENET, 0.08) == {("fc1", "fc2", "fc3"): 21_296}


def test_erk_by_hand():
    # ε · (10 + 10) + ε · (100 + 10) = 220 of 1,100: ε = 22/13.
    shapes = {"a": (10, 10), "b": (100, 10)}
    assert counts_of(pruning.erk, shapes, 0.2) == {("a",): 34, ("b",): 186}
    # The 3×3 convolution counts its kernel axes too: 3 + 3 + 16 + 32 = 54 against 48.
    shapes = {"conv": (3, 3, 16, 32), "dense": (16, 32)}
    assert counts_of(pruning.erk, shapes, 0.1) == {("conv",): 271, ("dense",): 241}


def test_erk_fills_small_leaves_and_gives_the_rest_to_the_others():
    # fc3: 110 · ε > 1,000, so it stays whole; 1,084 and 400 share what is left.
    kept = counts_of(pruning.erk, LENET, 0.08)
    assert kept[("fc3",)] == 1000
    assert kept[("fc1",)] == round((21_296 - 1000) * 1084 / 1484)
    assert sum(kept.values()) == 21_296


positive = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6)


@given(shapes=positive, density=st.floats(0, 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_erk_adds_up_within_the_sizes_and_stays_near_the_real_shares(shapes, density):
    shapes = {str(i): shape for i, shape in enumerate(shapes)}
    sizes = np.array([a * b for a, b in shapes.values()])
    total = pruning.kept(int(sizes.sum()), density)
    kept = np.array([budget.k for budget in pruning.erk(shapes, density)])
    assert kept.sum() == total
    assert np.all((kept >= 0) & (kept <= sizes))
    weights = np.array([a + b for a, b in shapes.values()])
    low, high = 0.0, float(sizes.max())
    for _ in range(100):  # the level ε by bisection: an oracle without corners
        level = (low + high) / 2
        low, high = (
            (level, high) if np.minimum(level * weights, sizes).sum() < total else (low, level)
        )
    np.testing.assert_allclose(kept, np.minimum(high * weights, sizes), atol=len(sizes) / 2 + 1)


def test_a_traced_total_is_split_exactly_too():
    weights, sizes = [1084, 400, 110], [235_200, 30_000, 1_000]
    split = jax.jit(lambda total: pruning.split(total, weights, sizes))
    for total in (0, 1, 21_296, 100_000, 266_200):
        traced = [int(k) for k in split(jnp.int32(total))]
        assert sum(traced) == total
        np.testing.assert_allclose(traced, pruning.split(total, weights, sizes), atol=2)
