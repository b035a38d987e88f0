"""Streamed histograms against NumPy's of all inputs at once, and the levels they give."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import calibration
from wlab.quantization import Clip
from wlab.quantization.entropy import kept_bins
from wlab.quantization.histograms import entropy_levels, histogram

STATISTIC = histogram(64)
measure, together = jax.jit(STATISTIC.measure), jax.jit(STATISTIC.together)
INPUTS = np.random.default_rng(0).standard_t(2, (6, 40, 5)).astype(np.float32)
INPUTS[0] *= 1e-3  # the range grows on the way
INPUTS[2, :10] = 0


def counted(x, bins=64):
    """NumPy's, up to the least power of two above the largest magnitude."""
    x = np.abs(x[x != 0]).astype(np.float64)
    end = 2.0 ** (np.floor(np.log2(x.max())) + 1)
    return np.bincount(np.floor(x / end * bins).astype(int), minlength=bins), end


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 3, 0, 4, 1, 2]])
def test_batches_in_any_order_give_the_counts_of_all_inputs_at_once(order):
    parts = [measure(jnp.asarray(INPUTS[i])) for i in order]
    found = np.asarray(reduce(together, parts))
    counts, end = counted(INPUTS)
    np.testing.assert_array_equal(found[:-1], counts)
    assert 2.0 ** (int(found[-1]) - 126) == end


def test_no_rows_change_nothing_and_a_stack_has_a_histogram_each():
    stack = measure(jnp.asarray(INPUTS[:2]))
    for cells, x in zip(np.asarray(stack), INPUTS[:2], strict=True):
        np.testing.assert_array_equal(cells[:-1], counted(x)[0])
    none = jnp.full(stack.shape, STATISTIC.empty, stack.dtype)
    np.testing.assert_array_equal(together(none, stack), stack)
    np.testing.assert_array_equal(together(stack, none), stack)


@pytest.mark.parametrize(("power", "place"), [(-120, 0), (-100, 48), (100, 48), (127, 63)])
def test_the_least_and_the_largest_numbers_are_counted(power, place):
    x = np.full((40, 5), np.ldexp(np.float32(1.5), power))
    found = np.asarray(measure(jnp.asarray(x)))
    assert found[place] == found[:-1].sum() == 200


def network(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def test_levels_of_what_a_function_meets_cut_its_tail():
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(rng.standard_normal((5, 5)), jnp.float32) for name in "ab"}
    rules = [("a", Clip(4, signed=True)), ("b", Clip(3)), (".*", None)]
    batches = [(jnp.asarray(x),) for x in INPUTS[:2]]
    found = calibration.collect(network, params, batches, STATISTIC)
    levels = entropy_levels(found, rules)
    for path, met in {
        "a": INPUTS[:2],
        "b": np.maximum(np.asarray(INPUTS[:2] @ np.asarray(params["a"])), 0),
    }.items():
        counts, end = counted(met)
        kept = int(kept_bins(jnp.asarray(counts), levels=8))
        assert float(levels[path]) == pytest.approx(kept / 64 * end, abs=2 / 64 * end)
        assert 0 < float(levels[path]) < 0.7 * np.abs(met).max()


def test_a_level_is_never_beyond_the_bin_of_the_largest_input():
    even = (np.arange(40, dtype=np.float32) + 0.5) / 32
    cells = measure(jnp.asarray(np.tile(even, 5).reshape(40, 5)))
    level = entropy_levels({"w": cells}, [("w", Clip(4, signed=True))])["w"]
    assert float(level) == 40 / 32  # the range that is counted ends at 2


def test_stacks_have_one_level_and_zeros_none():
    whole = measure(jnp.asarray(INPUTS[1:3]))
    both = reduce(together, whole)
    rules = [("w|z", Clip(4))]
    none = measure(jnp.zeros((40, 5)))
    levels = entropy_levels({"w": whole, "z": none}, rules)
    assert float(levels["w"]) == float(entropy_levels({"w": both}, rules)["w"]) > 0
    assert float(levels["z"]) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(bad):
    x = jnp.asarray(INPUTS[1]).at[3, 2].set(bad)
    ahead = together(measure(x), measure(jnp.asarray(INPUTS[2])))
    with pytest.raises(ValueError, match="inputs of 'w' hold NaN or infinity"):
        entropy_levels({"w": ahead}, [("w", Clip(4))])


@pytest.mark.parametrize("bins", [0, 1, 96, 2**17])
def test_bins_that_do_not_halve_are_refused(bins):
    with pytest.raises(ValueError, match="a power of two"):
        histogram(bins)
