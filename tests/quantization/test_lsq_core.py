"""A grid that is learned: where it starts, its gradients against the paper, what is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantization_twin import round_scale

from wlab.quantization import (
    Format,
    Integers,
    LearnedGrid,
    dequantize,
    int2,
    int4,
    int8,
    learned_quantize,
    learned_round,
    quantize,
    start_grid,
)

FORMAT = int4(group_size=16)
SYMMETRIC = [
    int4(axis=None),
    int2(),
    int4(group_size=9),
    int8(bound="half", axis=-1, scale_dtype="float16"),
    int4(axis=(-2, -1), group_size=(8, 5)),
]
MINIMUM = Format(Integers(4, symmetric=False, zero="minimum"), -2, 10)
FORMATS = [*SYMMETRIC, int4(symmetric=False, group_size=9), MINIMUM]
EACH = pytest.mark.parametrize("format", FORMATS, ids=str)


def matrix(n=20, m=12, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, m)), jnp.float32)


def moved_grid(x, format):
    """A grid that has been trained: finer steps, so that some codes saturate."""
    rng = np.random.default_rng(1)

    def moved(each):
        return each * jnp.asarray(rng.uniform(0.1, 0.5, each.shape), jnp.float32)

    return jax.tree.map(moved, start_grid(x, format))


def blocks_of(shape, format):
    """The block that each entry belongs to, as an index of its scale; by counting, no reshape."""
    spanned, sizes = format.axes(len(shape)), dict(format.groups(shape))
    places = np.indices(shape)
    return tuple(
        places[i] // sizes[i] if i in sizes else places[i] * (i not in spanned)
        for i in range(len(shape))
    )


def codes_of(format):
    """The lowest code, the highest, and Q_P, from the paper's definitions."""
    top = 2**format.grid.bits - 1
    if not format.grid.symmetric:
        return 0, top, top
    largest = top // 2
    return (-largest if format.grid.bound == "qmax" else -largest - 1), largest, largest


@pytest.mark.parametrize("format", SYMMETRIC, ids=str)
def test_a_scale_starts_at_two_mean_magnitudes_of_the_weights_that_are_not_zero(format):
    x = np.where(np.random.default_rng(2).random((20, 12)) < 0.8, matrix(), 0)
    where = blocks_of(x.shape, format)
    total = np.zeros(format.scale_shape(x.shape))
    count = np.zeros_like(total)
    np.add.at(total, where, np.abs(x))
    np.add.at(count, where, x != 0)
    assert count.all() and not x.all()
    grid = start_grid(jnp.asarray(x), format)
    expected = 2 * total / count / np.sqrt(codes_of(format)[2])
    np.testing.assert_allclose(grid.scale, expected, rtol=1e-6)
    assert grid.offset is None


def test_an_asymmetric_grid_starts_from_end_to_end():
    grid = start_grid(matrix(), int4(symmetric=False))
    low, high = np.min(matrix(), 0, keepdims=True), np.max(matrix(), 0, keepdims=True)
    np.testing.assert_allclose(grid.scale, (high - low) / 15, rtol=1e-6)
    np.testing.assert_array_equal(grid.offset, low)


def test_a_block_of_zeros_starts_at_the_mean_of_the_array_and_nan_stays_in_its_block():
    x = matrix().at[:, 0].set(0).at[3, 1].set(jnp.nan)
    scale = start_grid(x.at[:, 1].set(1.0), int4()).scale
    rest = np.abs(np.concatenate([np.ones((20, 1)), x[:, 2:]], 1)).mean()
    np.testing.assert_allclose(scale[0, 0], 2 * rest / np.sqrt(7), rtol=1e-6)
    seen = np.asarray(
        learned_round(x, start_grid(x, int4())._replace(scale=jnp.ones((1, 12))), int4())
    )
    assert np.isfinite(seen[:, 2:]).all() and np.isnan(seen[3, 1])


@EACH
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_value_is_what_is_written_and_lies_on_the_grid(format, dtype):
    x = matrix().astype(dtype)
    grid = moved_grid(x, format)
    seen = learned_round(x, grid, format)
    assert seen.dtype == dtype
    np.testing.assert_array_equal(seen, dequantize(learned_quantize(x, grid, format)))
    compiled = jax.jit(learned_round, static_argnums=2)(x, grid, format)
    np.testing.assert_array_equal(seen, compiled)


@pytest.mark.parametrize("format", SYMMETRIC, ids=str)
def test_the_value_and_the_gradients_are_equations_1_to_5_of_the_paper(format):
    x, cotangent = matrix(), matrix(seed=3)
    grid = moved_grid(x, format)
    seen, pull = jax.vjp(lambda x, grid: learned_round(x, grid, format), x, grid)
    to_x, to_grid = pull(cotangent)

    low, high, largest = codes_of(format)
    where = blocks_of(x.shape, format)
    s = round_scale(np.asarray(grid.scale), format.scale_dtype)[where].astype(np.float64)
    ratio = np.asarray(x, np.float64) / s
    inside = (low < ratio) & (ratio < high)
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(seen, np.clip(np.rint(ratio), low, high) * s, rtol=1e-6)
    np.testing.assert_array_equal(to_x, np.where(inside, cotangent, 0))
    slope = np.where(inside, np.rint(ratio) - ratio, np.where(ratio <= low, low, high))
    summed = np.zeros(grid.scale.shape)
    entries = np.zeros_like(summed)
    np.add.at(summed, where, slope * np.asarray(cotangent))
    np.add.at(entries, where, 1)
    np.testing.assert_allclose(
        to_grid.scale, summed / np.sqrt(entries * largest), rtol=1e-4, atol=1e-5
    )


@EACH
def test_the_gradients_are_those_of_the_function_whose_rounding_errors_are_held_fixed(format):
    """h(w, s, β) = s · (clip((w − β)/s) + r) + β, by finite differences in double precision."""
    x, cotangent = matrix(), matrix(seed=3)
    grid = moved_grid(x, format)
    _, pull = jax.vjp(lambda x, grid: learned_round(x, grid, format), x, grid)
    to_x, to_grid = pull(cotangent)

    low, high, largest = codes_of(format)
    where = blocks_of(x.shape, format)
    w = np.asarray(x, np.float64)
    s = round_scale(np.asarray(grid.scale), format.scale_dtype)[where].astype(np.float64)
    offset = np.zeros_like(s) if grid.offset is None else np.asarray(grid.offset)[where]
    if format.grid.zero == "minimum":
        offset = np.sign(offset) * round_scale(np.abs(offset), format.scale_dtype)
    # With an integer zero point w/s itself is rounded, and z is a code.
    shift = offset / s if format.grid.zero == "minimum" else np.rint(np.clip(offset / s, -high, 0))
    code = w / s - shift
    inside = (low <= code) & (code <= high)
    error = np.where(inside, np.rint(code) - code, 0)

    def h(w, s, offset):
        shifted = (w - offset) / s
        clipped = np.where(inside, shifted, np.where(code < low, low, high))
        return s * (clipped + error) + offset

    def slope(of):
        return (h(*of(1e-4)) - h(*of(-1e-4))) / 2e-4

    entries = np.zeros(grid.scale.shape)
    np.add.at(entries, where, 1)
    g = 1 / np.sqrt(entries * largest)
    expected = cotangent * slope(lambda e: (w + e, s, offset))
    np.testing.assert_allclose(to_x, expected, rtol=1e-5, atol=1e-6)
    for found, by in (
        (to_grid.scale, slope(lambda e: (w, s * (1 + e), offset)) / s),
        (to_grid.offset, slope(lambda e: (w, s, offset + e))),
    ):
        if found is not None:
            summed = np.zeros(grid.scale.shape)
            np.add.at(summed, where, by * np.asarray(cotangent))
            np.testing.assert_allclose(found, summed * g, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", [FORMAT, int4(symmetric=False, group_size=16)], ids=str)
def test_masked_zeros_stay_zero_and_do_not_pull_an_offset(format):
    x = jnp.where(np.random.default_rng(5).random((40, 24)) < 0.3, jnp.abs(matrix(40, 24)), 0)
    grid = start_grid(x, format)
    seen, pull = jax.vjp(lambda grid: learned_round(x, grid, format), grid)
    assert not np.asarray(seen)[np.asarray(x) == 0].any()
    (slopes,) = pull(jnp.where(x == 0, 1.0, 0.0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes))


def test_the_grid_of_plain_rounding_is_a_grid_too():
    """Scales from elsewhere can be learned on: given those of `quantize`, nothing is new."""
    x, plain = matrix(), quantize(matrix(), FORMAT)
    grid = LearnedGrid(plain.scale, None)
    np.testing.assert_array_equal(learned_round(x, grid, FORMAT), dequantize(plain))
