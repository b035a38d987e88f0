"""HQQ against a twin in float64, one array at a time, and against what must be true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantization_twin import round_scale

from wlab import quantization
from wlab.quantization import Format, Integers, dequantize, ggml_q4_1, int4, mse, quantize
from wlab.quantization.hqq import hqq, shrink


def format(bits=4, group_size=16, **options):
    return Format(Integers(bits, symmetric=False, zero="minimum"), -2, group_size, **options)


def weights(shape=(64, 6), seed=0):
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)


run = jax.jit(hqq, static_argnames=("format", "range_fn", "power", "beta", "kappa", "iterations"))
start = jax.jit(quantize, static_argnames=("format", "range_fn"))
SHORTER = mse((1.0, 0.8))


def errors(x, q):
    """The mean |e| of each block."""
    each = np.abs(np.asarray(x, np.float64) - np.asarray(dequantize(q), np.float64))
    return each.reshape(-1, q.format.group_size, x.shape[-1]).mean(1)


def twin(x, bits, size, *, power=0.7, beta=10.0, kappa=1.01, iterations=20):
    """The best minimum of each block; x in blocks, scales as they are stored."""
    blocks = x.reshape(-1, size, x.shape[1]).astype(np.float64)
    top = 2**bits - 1
    width = (x.reshape(blocks.shape).max(1) - x.reshape(blocks.shape).min(1)) * np.float32(1 / top)
    scale = round_scale(width, "float32").astype(np.float64)[:, None]

    def kept(m):
        return np.copysign(round_scale(np.abs(m), "float32"), m).astype(np.float64)

    def written(m):
        codes = np.clip(np.rint((blocks - m) / scale), 0, top)
        return codes, blocks - (codes * scale + m)

    m = kept(blocks.min(1, keepdims=True))
    best, least = m, np.abs(written(m)[1]).mean(1, keepdims=True)
    last = least.mean()
    for _ in range(iterations):
        codes, left = written(m)
        u = np.abs(left / scale)
        with np.errstate(divide="ignore"):
            spared = np.sign(left) * scale * np.maximum(u - u ** (power - 1) / beta, 0)
        m = kept((blocks - spared - codes * scale).mean(1, keepdims=True))
        now = np.abs(written(m)[1]).mean(1, keepdims=True)
        best, least = np.where(now < least, m, best), np.minimum(now, least)
        if now.mean() >= last:
            break
        last, beta = now.mean(), beta * kappa
    return best[:, 0], least[:, 0]


@pytest.mark.parametrize("options", [{}, {"power": 1, "beta": 3.0, "kappa": 1.5}], ids=str)
@pytest.mark.parametrize("bits", [2, 4])
def test_it_is_its_twin(bits, options):
    x = weights()
    q = run(x, format(bits), **options)
    quantization.check(q)
    minima, least = twin(x, bits, 16, **options)
    np.testing.assert_allclose(errors(x, q), least, rtol=1e-3)
    assert np.isclose(q.zero_point, minima, atol=1e-4).mean() > 0.95


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
def test_no_block_is_above_its_start_and_most_are_below(bits, scale_dtype):
    x = weights()
    for range_fn in (quantization.absmax, SHORTER):
        found = errors(x, run(x, format(bits, scale_dtype=scale_dtype), range_fn=range_fn))
        plain = start(x, format(bits, scale_dtype=scale_dtype), range_fn=range_fn)
        before = errors(x, plain)
        assert (found <= before * (1 + 1e-5)).all()
        assert (found < before).mean() > 0.5


def test_scales_stay_and_codes_are_the_nearest():
    x = weights()
    q, plain = run(x, format()), start(x, format())
    np.testing.assert_array_equal(q.scale, plain.scale)
    step = np.repeat(np.asarray(q.scale), 16, 0)
    low = np.repeat(np.asarray(q.zero_point), 16, 0)
    inside = (x > low) & (x < low + 15 * step)
    assert (np.abs(x - dequantize(q)) <= step * 0.5001)[inside].all()


def test_the_unit_of_the_weights_does_not_matter():
    x = weights()
    one, other = run(x, format()), run(x * np.float32(2.0**-9), format())
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.zero_point, other.zero_point * 2**9)


def test_a_stack_is_what_its_arrays_are():
    stack = np.stack([weights(seed=i) * 4.0**i for i in range(3)])
    together = jax.jit(jax.vmap(lambda x: hqq(x, format(3))))(stack)
    alone = [run(x, format(3)) for x in stack]
    jax.tree.map(
        np.testing.assert_array_equal, together, jax.tree.map(lambda *x: jnp.stack(x), *alone)
    )


def test_eager_is_jit():
    jax.tree.map(
        np.testing.assert_array_equal,
        hqq(jnp.asarray(weights()), format()),
        run(weights(), format()),
    )


def test_blocks_of_one_value_are_met_and_a_nan_harms_its_block_only():
    x = weights()
    clean = np.asarray(dequantize(run(x, format())))
    x[:16, 0], x[16:32, 1], x[20, 2] = 0, 3.25, np.nan
    values = np.asarray(dequantize(run(x, format())))
    assert (values[:16, 0] == 0).all() and (values[16:32, 1] == 3.25).all()
    assert np.isnan(values[16:32, 2]).all() and np.isnan(values).sum() == 16
    better = np.abs(values - x)[:, 3:].mean(), np.abs(clean - x)[:, 3:].mean()
    np.testing.assert_allclose(*better, rtol=0.02)  # the turns went on


def test_blocks_of_one_entry_keep_it():
    x = weights((4, 6))
    np.testing.assert_allclose(dequantize(run(x, format(group_size=1))), x, rtol=2**-15)


def test_formats_of_peers_can_be_moved():
    x = weights((6, 64))
    q = run(x, ggml_q4_1)
    quantization.check(q)
    plain = np.abs(np.asarray(dequantize(start(x, ggml_q4_1))) - x).mean()
    assert np.abs(np.asarray(dequantize(q)) - x).mean() < plain


@pytest.mark.parametrize("x", [0.5, -1.0, 3.0])
def test_with_power_one_the_shrinkage_solves_its_problem(x):
    h = np.linspace(-4, 4, 80_001)
    best = h[np.argmin(np.abs(h) + (x - h) ** 2)]
    assert float(shrink(jnp.float32(x), 1, jnp.float32(2.0))) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("other", [int4(), int4(symmetric=False), quantization.nf4()], ids=str)
def test_a_format_without_a_minimum_is_refused(other):
    with pytest.raises(ValueError, match="stores none; take Format"):
        hqq(jnp.ones((64, 2)), other)


@pytest.mark.parametrize(
    "bad", [{"power": 0}, {"power": 1.2}, {"beta": 0}, {"kappa": 0.9}, {"iterations": 0}], ids=str
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="hqq takes power"):
        hqq(jnp.ones((64, 2)), format(), **bad)


def test_a_short_last_group_is_what_it_is_by_itself():
    x = weights((44, 6)) + np.float32(3)  # zero, which padding would be, is far from its range
    q, (whole, rest) = run(x, format()), (run(part, format()) for part in np.split(x, [32]))
    quantization.check(q)
    for of in ("scale", "zero_point"):
        both = np.concatenate([getattr(whole, of), getattr(rest, of)])
        np.testing.assert_array_equal(getattr(q, of), both)
    values = np.concatenate([dequantize(whole), dequantize(rest)])
    np.testing.assert_array_equal(dequantize(q), values)
    assert np.abs(values - x).max() < np.ptp(x) / 15


def test_short_blocks_of_both_axes_are_met():
    x = weights((5, 7)) + np.float32(3)
    blocks = Format(Integers(3, symmetric=False, zero="minimum"), (-2, -1), (4, 3))
    q = run(x, blocks)
    quantization.check(q)
    assert q.scale.shape == (2, 3)
    np.testing.assert_allclose(dequantize(q), x, atol=np.ptp(x) / 7)
    np.testing.assert_allclose(dequantize(q)[4, 6], x[4, 6], rtol=2**-15)  # a block of its own
