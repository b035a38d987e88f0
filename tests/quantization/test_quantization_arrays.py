"""Quantize, dequantize and round, against a numpy twin, closed forms and published figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization_twin import quantize_matrix

from wlab import quantization
from wlab.quantization import absmax, int2, int4, int8, integer, sqnr, unpack

# Compiled: this is many times quicker than op by op, and the same, as the first test shows.
quantize = jax.jit(quantization.quantize, static_argnames=("format", "range_fn"))
dequantize = jax.jit(quantization.dequantize)
round_to_grid = jax.jit(
    quantization.round_to_grid, static_argnames=("format", "gradient", "range_fn")
)

GRIDS = ((True, "qmax"), (True, "half"), (False, "qmax"))
SPANS = ((None, None), (-2, None), (-2, 16), (-1, 7))
SCALES = ("float32", "float16", "bfloat16")
LONG = pytest.mark.long


def weights(shape=(40, 24), seed=0, scale=0.05):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def bits_of(x):
    return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize("shift", [0, pytest.param(1, marks=LONG), pytest.param(2, marks=LONG)])
@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_jit_eager_and_numpy_agree_bit_for_bit(grid, span, shift):
    """Every pair of choices in three kinds a case; every combination with the long ones."""
    x = weights()
    symmetric, bound = grid
    axis, group_size = span
    shift += SPANS.index(span) + GRIDS.index(grid)
    kinds = [
        {"bits": bits, "symmetric": symmetric, "bound": bound, "scale_dtype": SCALES[i % 3]}
        for i, bits in enumerate((2, 4, 8), start=shift)
    ]

    def every_way(x):
        formats = [integer(axis=axis, group_size=group_size, **kind) for kind in kinds]
        coded = [quantization.quantize(x, format) for format in formats]
        return [
            (q, quantization.dequantize(q), quantization.round_to_grid(x, q.format)) for q in coded
        ]

    for results in (every_way(x), jax.jit(every_way)(x)):
        for kind, (q, through_codes, rounded) in zip(kinds, results, strict=True):
            values, codes, scale, zero_point = quantize_matrix(
                np.asarray(x), axis=axis and axis % 2, group_size=group_size, **kind
            )
            np.testing.assert_array_equal(unpack(q.codes, kind["bits"], q.length), codes)
            np.testing.assert_array_equal(q.scale.astype(jnp.float32), scale)
            if not symmetric:
                np.testing.assert_array_equal(q.zero_point, zero_point)
            np.testing.assert_array_equal(bits_of(through_codes), bits_of(values))
            np.testing.assert_array_equal(bits_of(rounded), bits_of(values))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_dots_after_dequantizing_inside_jit_are_right(bits, symmetric):
    """XLA:CPU has miscompiled grouped batched dots whose integer operand is computed in the jit."""
    groups, size, n, m = 4, 32, 48, 8
    w, x = weights((groups * size, n)), weights((groups, m, size), seed=1, scale=1.0)
    format = integer(bits, group_size=size, symmetric=symmetric)

    def dot(w, x):
        return jnp.einsum("gmk,gkn->gmn", x, w.reshape(groups, size, n)).sum(0)

    @jax.jit
    def every_way(w, q, x):
        q_here = quantization.quantize(w, format)
        rounded = quantization.round_to_grid(w, format)
        return [dot(w, x) for w in (rounded, *map(quantization.dequantize, (q, q_here)))]

    q = quantize(w, format)
    exact = np.asarray(dequantize(q), np.float64).reshape(groups, size, n)
    expected = np.einsum("gmk,gkn->mn", np.asarray(x, np.float64), exact)
    for found in every_way(w, q, x):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("format", "published"),
    [
        (int8(group_size=128), 43.78),
        (int4(group_size=128), 18.60),
        (int4(group_size=128, bound="half"), 19.11),
        (int4(group_size=128, symmetric=False), 19.95),
    ],
    ids=str,
)
def test_noise_on_normal_weights_is_the_published_one(format, published):
    x = weights((1024, 1024), scale=1.0)
    assert float(sqnr(x, round_to_grid(x, format))) == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize("n", [288, 576])
def test_a_last_short_group_has_its_own_scale_and_no_padding_is_stored(n):
    x = weights((n, 10))
    q = quantize(x, int4(group_size=128, scale_dtype="float16"))
    assert q.codes.shape == (n, 5)
    assert q.scale.shape == (-(-n // 128), 10)
    last = quantize(x[n - n % 128 :], int4(scale_dtype="float16"))
    np.testing.assert_array_equal(q.scale[-1:], last.scale)


def on_grid(seed, bits, symmetric, group_size, scale_dtype):
    """Random grid points whose blocks all use the ends of their range."""
    rng = np.random.default_rng(seed)
    n, top = 24, 2**bits - 1
    zero = 2 ** (bits - 1) if symmetric else rng.integers(0, top + 1, (1, 5))
    codes = rng.integers(1 if symmetric else 0, top + 1, (n, 5))
    for start in range(0, n, group_size):
        codes[start], codes[min(start + 1, n - 1)] = (top if symmetric else 0), top
    scale = rng.uniform(1e-4, 1e-1, (1, 5)).astype(scale_dtype).astype(np.float32)
    scale = scale.view(np.uint32) & 0xFFFFFF00
    return ((codes - zero) * scale.view(np.float32)).astype(np.float32)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.sampled_from([4, 24]),
    st.sampled_from(["float32", "float16"]),
)
def test_grid_points_quantize_to_themselves(seed, bits, symmetric, group_size, scale_dtype):
    x = on_grid(seed, bits, symmetric, group_size, scale_dtype)
    format = integer(bits, symmetric=symmetric, group_size=group_size, scale_dtype=scale_dtype)
    np.testing.assert_array_equal(round_to_grid(jnp.asarray(x), format), x)


@pytest.mark.parametrize("scale_dtype", SCALES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_twice_is_rounding_once(bits, scale_dtype):
    """In a symmetric format: the largest weight of a block always has the outermost code."""
    format = integer(bits, group_size=16, scale_dtype=scale_dtype)
    for seed in range(4):
        once = round_to_grid(weights(seed=seed), format)
        np.testing.assert_array_equal(round_to_grid(once, format), once)


@pytest.mark.parametrize("gradient", ["pass_through", "clipped"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_have_their_closed_forms_in_both_modes(gradient, symmetric):
    """With half the range, entries beyond 7.5 steps of max/2/7 saturate."""
    x = weights((32, 4))
    format = int4(symmetric=symmetric)
    t = weights(x.shape, seed=1)

    def f(x):
        return round_to_grid(x, format, gradient=gradient, range_fn=halved)

    q = quantize(x, format, range_fn=halved)
    zero = 8 if symmetric else np.asarray(q.zero_point, np.float32)
    steps = np.asarray(x) / np.asarray(q.scale)
    inside = (np.rint(steps) + zero >= symmetric) & (np.rint(steps) + zero <= 15)
    assert 0 < inside.sum() < inside.size
    expected = np.where(inside | (gradient == "pass_through"), t, 0)
    value, pushed = jax.jvp(f, (x,), (t,))
    (pulled,) = jax.vjp(f, x)[1](t)
    np.testing.assert_array_equal(value, dequantize(q))
    np.testing.assert_array_equal(pushed, expected)
    np.testing.assert_array_equal(pulled, expected)


def halved(x, axes, format):
    low, high = absmax(x, axes, format)
    return low / 2, high / 2


@pytest.mark.parametrize("format", [int4(group_size=16), int4(symmetric=False), int2(bound="half")])
def test_zeros_stay_exactly_zero(format):
    x = jnp.where(weights() > 0.03, weights() + 1, 0)
    rounded = np.asarray(round_to_grid(x, format))
    assert not bits_of(rounded)[np.asarray(x) == 0].any()
    assert not bits_of(round_to_grid(jnp.zeros((40, 3)), format)).any()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale_dtype", SCALES)
@pytest.mark.parametrize("size", [1e-44, 3e-38, 1e-6, 1e36])
def test_scales_of_any_size_stay_finite_and_match_numpy(symmetric, scale_dtype, size):
    x = jnp.asarray(np.asarray(weights(scale=1.0), np.float64) * size, jnp.float32)
    how = {"symmetric": symmetric, "scale_dtype": scale_dtype}
    q = quantize(x, int4(**how))
    values, codes, scale, _ = quantize_matrix(
        np.asarray(x), axis=0, group_size=None, bits=4, bound="qmax", **how
    )
    assert np.isfinite(scale).all()
    assert (np.asarray(q.scale) > 0).all()
    np.testing.assert_array_equal(unpack(q.codes, 4, q.length), codes)
    np.testing.assert_array_equal(dequantize(q), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", [int4(group_size=8), int8(group_size=8, symmetric=False)])
def test_what_is_not_finite_makes_its_block_nan_and_no_other(bad, format):
    x = weights().at[9, 3].set(bad)
    hit = np.zeros(x.shape, bool)
    hit[8:16, 3] = True
    q = quantize(x, format)
    for rounded in (round_to_grid(x, format), dequantize(q)):
        np.testing.assert_array_equal(np.isnan(rounded), hit)
    assert not np.asarray(unpack(q.codes, format.grid.bits, q.length))[hit].any()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (5,)])
@pytest.mark.parametrize("format", [int4(group_size=2), int8(axis=None), int2(symmetric=False)])
def test_empty_tiny_and_flat_arrays_keep_their_shape(shape, format):
    x = weights(shape)
    q = quantize(x, format)
    assert q.shape == dequantize(q).shape == shape
    np.testing.assert_array_equal(dequantize(q), round_to_grid(x, format))


def test_a_vector_has_groups_along_its_only_axis():
    x = weights((40,))
    as_row = round_to_grid(x[None], int4(axis=-1, group_size=16))
    np.testing.assert_array_equal(round_to_grid(x, int4(group_size=16)), as_row[0])


def test_a_scale_may_span_several_axes():
    x = weights((3, 3, 8, 16))
    per_output = round_to_grid(x, int8(axis=(-4, -3, -2)))
    np.testing.assert_array_equal(
        per_output, round_to_grid(x.reshape(72, 16), int8()).reshape(x.shape)
    )


@pytest.mark.parametrize("format", [int4(group_size=16), int8(axis=None, symmetric=False)])
def test_vmap_is_a_loop_and_a_stack_of_codes_is_read_back(format):
    stack = weights((3, 40, 24))
    loop = jnp.stack([round_to_grid(x, format) for x in stack])
    np.testing.assert_array_equal(jax.vmap(lambda x: round_to_grid(x, format))(stack), loop)
    q = jax.vmap(lambda x: quantize(x, format))(stack)
    assert q.shape == stack.shape
    np.testing.assert_array_equal(dequantize(q), loop)
    np.testing.assert_array_equal(jax.lax.map(dequantize, q), loop)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_weights_are_rounded_in_float32_and_come_back_in_their_dtype(dtype):
    x = weights().astype(dtype)
    format = int4(group_size=16)
    rounded = round_to_grid(x, format)
    assert rounded.dtype == dtype
    expected = round_to_grid(x.astype(jnp.float32), format).astype(dtype)
    np.testing.assert_array_equal(rounded, expected)
    for f in (lambda x: dequantize(quantize(x, format)), lambda x: round_to_grid(x, format)):
        np.testing.assert_array_equal(jax.jit(f)(x), expected)


def test_quantize_can_be_planned_without_data():
    q = jax.eval_shape(lambda x: quantize(x, int4(group_size=128)), weights((300, 10)))
    assert (q.codes.shape, q.scale.shape) == ((300, 5), (3, 10))


def test_an_unknown_gradient_is_refused_by_name():
    with pytest.raises(ValueError, match="straight"):
        round_to_grid(weights(), int4(), gradient="straight")
