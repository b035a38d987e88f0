"""The range of the least error to a power: against trying every factor in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantization_twin import round_scale

from wlab.quantization import dequantize, int3, int4, lp, mse, quantize, round_to_grid

FACTORS = (1.0, 0.9, 0.75, 0.6, 0.45)
POWERS = pytest.mark.parametrize("power", [0.7, 1, 2, 2.4, 8])


def weights(shape=(60, 8)):
    return np.random.default_rng(0).standard_t(4, shape).astype(np.float32)


def twin(column, power):
    """The factor of the least error on a symmetric grid of 4 bits, and that error."""
    errors = []
    for factor in FACTORS:
        end = np.abs(column).max() * np.float32(factor)
        scale = float(round_scale(np.asarray(end * np.float32(1 / 7)), "float32"))
        rounded = np.clip(np.rint(column.astype(np.float64) / scale), -7, 7) * scale
        errors.append((np.abs(column - rounded) ** power).sum())
    return FACTORS[int(np.argmin(errors))], min(errors)


@POWERS
def test_each_block_has_the_factor_of_its_least_error(power):
    x, groups = weights(), np.split(weights(), 3)
    expected = np.array([[twin(column, power)[0] for column in group.T] for group in groups])
    absmax = np.array([np.abs(group).max(0) for group in groups])
    q = jax.jit(lambda x: quantize(x, int4(group_size=20), range_fn=lp(power, FACTORS)))(x)
    np.testing.assert_allclose(q.scale, absmax * expected / 7, rtol=2**-15)


@pytest.mark.parametrize("power", [0.7, 2, 2.4])
@pytest.mark.parametrize("format", [int3(group_size=25), int4(symmetric=False)], ids=str)
def test_no_block_is_worse_than_with_the_whole_range(power, format):
    x = weights()
    size = format.group_size or len(x)

    def errors(range_fn):
        run = jax.jit(lambda x: round_to_grid(x, format, range_fn=range_fn))
        each = np.abs(x - np.asarray(run(x), np.float64)) ** power
        return np.add.reduceat(each, range(0, len(x), size))

    least, whole = errors(lp(power, FACTORS)), errors(lp(power, (1.0,)))
    assert (least <= whole * (1 + 1e-5)).all() and (least < 0.98 * whole).any()


def test_the_second_power_is_the_squared_error():
    x = jnp.asarray(weights())
    jax.tree.map(
        np.testing.assert_array_equal,
        quantize(x, int4(), range_fn=lp(2, FACTORS)),
        quantize(x, int4(), range_fn=mse(FACTORS)),
    )


def test_the_larger_the_power_the_wider_the_range():
    x = jnp.asarray(weights((400, 8)))
    scales = [np.asarray(quantize(x, int4(), range_fn=lp(p, FACTORS)).scale) for p in (0.5, 2, 16)]
    assert (scales[0] <= scales[1]).all() and (scales[1] <= scales[2]).all()
    assert (scales[0] < scales[2]).all()


@pytest.mark.parametrize("format", [int4(), int4(symmetric=False)], ids=str)
def test_blocks_of_zeros_of_one_entry_and_with_a_nan(format):
    x, run = (
        weights(),
        jax.jit(lambda x: dequantize(quantize(x, format, range_fn=lp(0.7, FACTORS)))),
    )
    x[:, 0], x[3, 1] = 0, np.nan
    values = run(x)
    assert (values[:, 0] == 0).all() and np.isnan(values[:, 1]).all()
    assert np.isfinite(values[:, 2:]).all()
    np.testing.assert_allclose(run(x[:1]), x[:1], rtol=2**-15)


@pytest.mark.parametrize("power", [0, -1, float("inf"), float("nan")])
def test_a_power_out_of_range_is_refused(power):
    with pytest.raises(ValueError, match="power must be above 0"):
        lp(power)
