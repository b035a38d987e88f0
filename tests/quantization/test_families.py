"""Every family of formats: jit = eager = numpy, and fake_quant = dequantize of quantize."""

from functools import partial
from typing import Any

import family_twin as twin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import quantization
from wlab.quantization import (
    NF4,
    Codebook,
    Format,
    Integers,
    absmean,
    binary,
    bnb_nf4,
    fp4_e2m1,
    fp6_e2m3,
    fp6_e3m2,
    fp8_e4m3,
    fp8_e5m2,
    ggml_q4_1,
    nf4,
    nvfp4,
    ocp_mxfp4,
    ocp_mxfp6_e2m3,
    ocp_mxfp6_e3m2,
    ocp_mxfp8_e4m3,
    ocp_mxfp8_e5m2,
    presets,
    ternary,
    unpack,
)
from wlab.quantization.scales import load

quantize = jax.jit(quantization.quantize, static_argnames=("format", "range_fn"))
dequantize = jax.jit(quantization.dequantize)
round_to_grid = jax.jit(
    quantization.round_to_grid, static_argnames=("format", "gradient", "range_fn")
)

LONG = pytest.mark.long
SPANS = ((None, None), (-2, None), (-2, 16), (-1, 7))
SCALES = ("float32", "float16", "bfloat16")
EIGHTS = Codebook(tuple(np.arange(-4, 5) ** 3 / 64.0), "cubes")  # nine values in 4 bits
LEVELS = tuple(np.sinh(np.linspace(-3, 3, 255)).astype(np.float32).tolist())


def floats(build, name):
    return build, partial(twin.float_block, name=name)


FAMILIES = [
    floats(fp8_e4m3, "e4m3"),
    floats(fp8_e5m2, "e5m2"),
    floats(fp6_e2m3, "e2m3"),
    floats(fp6_e3m2, "e3m2"),
    floats(fp4_e2m1, "e2m1"),
    (nf4, partial(twin.code_block, values=NF4)),
    (partial(Format, EIGHTS), partial(twin.code_block, values=EIGHTS.values)),
    (partial(Format, Codebook(LEVELS)), partial(twin.code_block, values=LEVELS)),
]


def weights(shape=(40, 24), seed=0, scale=0.05):
    """Normal ones, with a block of zeros, zeros of both signs, and a block of equals."""
    x = scale * np.random.default_rng(seed).standard_normal(shape)
    if x.ndim == 2 and x.size:
        x[:16, 0], x[16:32, 1] = 0, 0.5 * scale
        x[0, 2], x[1, 2] = 0.0, -0.0
    return jnp.asarray(x, jnp.float32)


def bits_of(x):
    return np.asarray(x, np.float32).view(np.uint32)


def every_way(x, formats):
    """What is written, what is read, and what is seen in training."""
    coded = [quantization.quantize(x, format) for format in formats]
    return [(q, quantization.dequantize(q), quantization.round_to_grid(x, q.format)) for q in coded]


def agree(x, formats, expected, ways=(False, True)):
    for compiled in ways:
        run = jax.jit(every_way, static_argnums=1) if compiled else every_way
        for (q, read, seen), (values, codes, scale) in zip(run(x, formats), expected, strict=True):
            format = q.format
            found = unpack(q.codes, format.grid.bits, q.length, format.order)
            np.testing.assert_array_equal(found, codes, str(format))
            np.testing.assert_array_equal(load(q.scale, format.scale_dtype), scale)
            np.testing.assert_array_equal(bits_of(read), bits_of(values))
            np.testing.assert_array_equal(bits_of(seen), bits_of(values))


@pytest.mark.parametrize(
    ("span", "shift"),
    [
        pytest.param(span, shift, marks=() if shift == 0 and span[1] else LONG)
        for span in SPANS
        for shift in range(3)
    ],
)
def test_floats_and_codebooks_agree_with_numpy_bit_for_bit(span, shift):
    x, (axis, group_size) = weights(), span
    formats, expected = [], []
    for i, (build, block) in enumerate(FAMILIES, start=shift + SPANS.index(span)):
        format = build(axis=axis, group_size=group_size, scale_dtype=SCALES[i % 3])
        if format.grid.keeps_zero or not group_size or x.shape[axis] % group_size == 0:
            formats.append(format)
            expected.append(
                twin.by_blocks(
                    np.asarray(x),
                    partial(block, scale_dtype=SCALES[i % 3]),
                    axis=axis and axis % 2,
                    group_size=group_size,
                )
            )
    assert len(formats) >= 7
    agree(x, tuple(formats), expected)


CONVENTIONS = [
    {"bits": 3, "bound": "full"},
    {"bits": 4, "bound": "full", "rounding": "half_away"},
    {"bits": 4, "bound": "signed", "rounding": "half_up", "coding": "exact"},
    {"bits": 5, "bound": "signed"},
    {"bits": 6, "bound": "half", "rounding": "half_up"},
    {"bits": 7, "bound": "qmax", "rounding": "half_away", "coding": "exact"},
    {"bits": 4, "bound": "minimum", "rounding": "half_up", "coding": "exact"},
    {"bits": 6, "bound": "minimum"},
]


@pytest.mark.parametrize("span", [(-2, 8), pytest.param((-1, None), marks=LONG)], ids=str)
def test_every_convention_of_integers_agrees_with_numpy_bit_for_bit(span):
    """Multiples of a quarter among them, of blocks whose scale is 1: exact ties."""
    axis, group_size = span
    rng = np.random.default_rng(3)
    x = np.concatenate([np.asarray(weights((16, 24))), rng.integers(-16, 17, (16, 24)) / 4])
    formats, expected = [], []
    for i, how in enumerate(CONVENTIONS):
        how = {"rounding": "half_even", "coding": "stored", **how, "scale_dtype": SCALES[i % 3]}
        free = how["bound"] == "minimum"
        grid = Integers(
            how["bits"],
            symmetric=not free,
            bound="qmax" if free else how["bound"],
            rounding=how["rounding"],
            zero="minimum" if free else "integer",
        )
        formats.append(Format(grid, axis, group_size, how["scale_dtype"], how["coding"]))
        block = partial(twin.integer_block, **how)
        x32 = x.astype(np.float32)
        expected.append(twin.by_blocks(x32, block, axis=axis % 2, group_size=group_size))
    agree(jnp.asarray(x, jnp.float32), tuple(formats), expected)


SIZES = np.array([1e-44, 3e-39, 3e-38, 1e-6, 1, 1e30, 2e36])


@pytest.mark.parametrize("group_size", [1, None])
def test_scales_of_any_size_and_groups_of_one_agree_with_numpy(group_size):
    """A column of zeros and one of each size: subnormal numbers, and some too large to scale."""
    x = np.random.default_rng(5).standard_normal((6, 8)) * np.append(SIZES, 0)
    x = x.astype(np.float32)
    builds = [FAMILIES[i] for i in (0, 4, 5)]
    formats = [
        build(group_size=group_size, scale_dtype=dtype)
        for (build, _), dtype in zip(builds, SCALES, strict=True)
    ]
    expected = [
        twin.by_blocks(x, partial(block, scale_dtype=dtype), axis=0, group_size=group_size)
        for (_, block), dtype in zip(builds, SCALES, strict=True)
    ]
    agree(jnp.asarray(x), tuple(formats), expected, ways=(True,))


@pytest.mark.parametrize("bound", ["qmax", "half", "full"])
def test_what_is_beyond_the_range_saturates_as_in_numpy(bound):
    """A step of 1, and −9 in 4 bits, which wraps to 7 where a cast is left to do it."""
    x = np.array([-9, -8, -7.6, -7, 0.5, 1.5, 7, 7.4, 7.6, 9, 1e9, -1e9], np.float32)
    format = Format(Integers(4, bound=bound))
    lowest = -7 if bound == "qmax" else -8

    def unit(x, axes, format):
        end = jnp.full((1,), format.grid.steps, jnp.float32)
        return -end, end

    expected = np.clip(np.rint(x), lowest, 7)
    for run in (quantization.round_to_grid, round_to_grid):
        found = run(jnp.asarray(x), format, range_fn=unit)
        np.testing.assert_array_equal(found, expected)


MX = {
    ocp_mxfp8_e4m3: "e4m3",
    ocp_mxfp8_e5m2: "e5m2",
    ocp_mxfp6_e2m3: "e2m3",
    ocp_mxfp6_e3m2: "e3m2",
    ocp_mxfp4: "e2m1",
}


@pytest.mark.parametrize("size", [1.0, 1e-38, pytest.param(3e37, marks=LONG)])
def test_mx_blocks_agree_with_numpy_bit_for_bit_at_any_size(size):
    """Rows of 80: two whole blocks of 32 and a short one."""
    x = weights((12, 80)) * size
    expected = [
        twin.by_blocks(
            np.asarray(x),
            partial(twin.float_block, name=name, scale_dtype="e8m0"),
            axis=1,
            group_size=32,
        )
        for name in MX.values()
    ]
    agree(x, tuple(MX), expected, ways=(False, True) if size == 1 else (True,))


@pytest.mark.parametrize("size", [1.0, 1e-36, pytest.param(1e36, marks=LONG)])
def test_nvfp4_agrees_with_numpy_bit_for_bit(size):
    x = weights((12, 40)) * size
    outer = twin.outer_scale(np.asarray(x), 6.0)
    block = partial(twin.float_block, name="e2m1", outer=outer)
    expected = twin.by_blocks(np.asarray(x), block, axis=1, group_size=16)
    agree(x, (nvfp4,), [expected], ways=(False, True) if size == 1 else (True,))
    assert float(quantize(x, nvfp4).outer[0, 0]) == outer


NAMED = {name: format for name, format in vars(presets).items() if isinstance(format, Format)}


@pytest.mark.parametrize("name", NAMED)
def test_every_preset_is_seen_as_it_is_read_and_its_nan_stays_in_its_block(name):
    """A block each with NaN, infinity, minus infinity, and one that is whole."""
    format = NAMED[name]
    size: Any = format.group_size or 8
    x = np.random.default_rng(1).standard_normal((4, size))
    x[:3, 3] = np.nan, np.inf, -np.inf
    x = jnp.asarray(x if format.axis != -2 else x.T, jnp.bfloat16)
    q, seen = jax.jit(lambda x: (quantization.quantize(x, format), round_to_grid(x, format)))(x)
    quantization.check(q)
    read = dequantize(q)
    assert (q.shape, q.dtype, read.dtype) == (x.shape, "bfloat16", jnp.bfloat16)
    read, seen = np.asarray(read, np.float32), np.asarray(seen, np.float32)
    np.testing.assert_array_equal(bits_of(np.nan_to_num(read)), bits_of(np.nan_to_num(seen)))
    hit = np.arange(4) < (4 if format.outer else 3 if format.grid.scaled else 1)
    hit = np.broadcast_to(hit[:, None], (4, size))
    if not format.grid.scaled:
        hit = np.isnan(np.asarray(x, np.float32))
    np.testing.assert_array_equal(np.isnan(read), hit if format.axis != -2 else hit.T)


@pytest.mark.parametrize("format", [nvfp4, ocp_mxfp4, bnb_nf4, ggml_q4_1], ids=str)
@pytest.mark.parametrize("blocks", [0, pytest.param(1, marks=LONG), pytest.param(2, marks=LONG)])
def test_vectors_and_empty_arrays_keep_their_shape(format, blocks):
    x = weights((blocks * format.group_size,) if blocks else (0, format.group_size))
    q = quantize(x, format)
    assert q.shape == dequantize(q).shape == x.shape
    np.testing.assert_array_equal(dequantize(q), round_to_grid(x, format))


@pytest.mark.parametrize("sizes", [(16, 10), (100, 7)], ids=str)
def test_blocks_over_two_axes_are_each_quantized_alone(sizes):
    """Short ones at both edges, in numpy cut out one by one."""
    x = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
    formats, expected = [], []
    for (build, block), dtype in ((FAMILIES[0], "float32"), (FAMILIES[5], "float16")):
        formats.append(build(axis=(-2, -1), group_size=sizes, scale_dtype=dtype))
        values, codes = np.empty_like(x), np.empty(x.shape, np.uint8)
        scale = np.empty((-(-40 // sizes[0]), -(-24 // sizes[1])), np.float32)
        for i, j in np.ndindex(scale.shape):
            at = tuple(slice(k * s, (k + 1) * s) for k, s in zip((i, j), sizes, strict=True))
            values[at], codes[at], scale[i, j] = block(x[at], scale_dtype=dtype)
        expected.append((values, codes, scale))
    agree(jnp.asarray(x), tuple(formats), expected)
    q = quantize(jnp.asarray(x), formats[0])
    quantization.check(q)
    mirrored = Format(formats[0].grid, (-1, -2), sizes[::-1])
    np.testing.assert_array_equal(round_to_grid(jnp.asarray(x), mirrored), dequantize(q))


def test_a_stack_of_two_level_scales_is_read_back():
    stack = jnp.stack([weights((12, 40)), 7 * weights((12, 40), seed=1)])
    q = jax.vmap(lambda x: quantize(x, nvfp4))(stack)
    loop = jnp.stack([round_to_grid(x, nvfp4) for x in stack])
    assert (q.shape, q.outer.shape) == (stack.shape, (2, 1, 1))
    np.testing.assert_array_equal(dequantize(q), loop)


def test_absmean_gives_the_published_ternary_and_binary_weights():
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    x[0, 0] = 0
    alpha = np.abs(x).astype(np.float64).mean(0)
    for format, expected in (
        (ternary(), alpha * np.clip(np.rint(x / alpha), -1, 1)),
        (binary(), alpha * np.where(x >= 0, 1, -1)),
    ):
        rounded = round_to_grid(jnp.asarray(x), format, range_fn=absmean)
        np.testing.assert_allclose(rounded, expected, rtol=2e-5)


@pytest.mark.parametrize("format", [nvfp4, ocp_mxfp4, nf4(axis=-1, group_size=16)], ids=str)
def test_mse_is_never_worse_than_absmax_in_any_block(format):
    x = weights((24, 64))

    def errors(range_fn):
        noise = np.asarray(x) - np.asarray(round_to_grid(x, format, range_fn=range_fn))
        return np.square(noise.astype(np.float64)).reshape(-1, format.group_size).sum(1)

    least, plain = errors(quantization.mse((1.0, 0.9, 0.8))), errors(quantization.absmax)
    assert (least <= plain).all()
    if format is not ocp_mxfp4:  # whose scale mostly rounds down to the same power
        assert least.sum() < plain.sum()


def test_gradients_are_clipped_where_a_value_saturates():
    """Half the range: entries beyond it saturate, in every family."""
    x = weights((32, 4), scale=1.0) + 0.01

    def halved(x, axes, format):
        low, high = quantization.absmax(x, axes, format)
        return low / 2, high / 2

    for format, slack in ((fp8_e4m3(), 1 + 1 / 28), (nf4(), 1.0), (fp4_e2m1(), 1 + 1 / 6)):
        grad = jax.grad(
            lambda x, f=format: jnp.sum(round_to_grid(x, f, gradient="clipped", range_fn=halved))
        )(x)
        inside = np.abs(x) <= slack * np.abs(x).max(0) / 2 * (1 - 1e-4)
        outside = np.abs(x) > slack * np.abs(x).max(0) / 2 * (1 + 1e-4)
        assert inside.any() and outside.any()
        np.testing.assert_array_equal(np.asarray(grad)[inside], 1)
        np.testing.assert_array_equal(np.asarray(grad)[outside], 0)
