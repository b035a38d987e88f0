"""Formats of other tools: against ggml's reference in numpy, published bits and published noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import quantization
from wlab.checkpoint.formats import gguf_blocks
from wlab.quantization import (
    bfloat16,
    bits_per_weight,
    bnb_nf4,
    dequantize,
    float16,
    ggml_q4_0,
    ggml_q4_1,
    ggml_q5_0,
    ggml_q5_1,
    ggml_q8_0,
    int4,
    int8,
    nf4,
    nvfp4,
    ocp_mxfp4,
    ocp_mxfp6_e2m3,
    ocp_mxfp8_e4m3,
    sqnr,
    unpack,
)

quantize = jax.jit(quantization.quantize, static_argnames="format")
sqnr = jax.jit(sqnr, static_argnames="rounded")


def rows():
    """Of very different sizes; with zeros, ties of both signs, an offset and equals."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 96)) * np.exp(rng.standard_normal((64, 1)) * 1.5 - 3)
    x[3], x[5, :32] = 0, 0
    x[6, 7], x[6, 9], x[7, 7], x[7, 9] = 5, -5, -5, 5
    x[8] = np.abs(x[8]) + 2
    x[9] = rng.choice([-1.0, 1.0], 96)
    x[10] *= 1e-5  # whose scale is a subnormal float16
    return x.astype(np.float32)


@pytest.mark.parametrize(("format", "encoding"), [(ggml_q4_0, "Q4_0"), (ggml_q8_0, "Q8_0")])
def test_values_are_those_of_ggml_s_blocks(format, encoding):
    x = rows()
    expected = gguf_blocks.decode(gguf_blocks.encode(x, encoding), encoding)
    q = quantize(jnp.asarray(x), format)
    np.testing.assert_array_equal(dequantize(q), expected)
    np.testing.assert_array_equal(quantization.quantize(jnp.asarray(x), format).codes, q.codes)
    assert (np.abs(expected).max(1) > 0).sum() >= 62  # all but the zeros, and one that underflows


def ggml_offset(x, bits):
    """`quantize_row_q4_1_ref` and `q5_1`: blocks of 32 as (values, codes), in float32."""
    blocks = x.reshape(-1, 32)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    d = (high - low) * np.float32(1 / (2**bits - 1))
    inverse = np.where(d > 0, 1 / np.where(d > 0, d, 1), 0).astype(np.float32)
    codes = np.minimum(2**bits - 1, np.floor((blocks - low) * inverse + np.float32(0.5)))
    halves = d.astype(np.float16).astype(np.float32), low.astype(np.float16).astype(np.float32)
    return (codes * halves[0] + halves[1]).reshape(x.shape), codes.reshape(x.shape)


@pytest.mark.parametrize(("format", "bits"), [(ggml_q4_1, 4), (ggml_q5_1, 5)])
def test_offsets_are_stored_and_values_are_ggml_s(format, bits):
    x = rows()
    values, codes = ggml_offset(x, bits)
    q = quantize(jnp.asarray(x), format)
    assert (q.scale.dtype, q.zero_point.dtype) == (jnp.float16, jnp.float16)
    np.testing.assert_array_equal(unpack(q.codes, bits, 96), codes)
    np.testing.assert_array_equal(dequantize(q), values)


def test_five_bits_take_the_sign_of_the_largest_weight():
    x = rows()
    largest = np.take_along_axis(x.reshape(-1, 32), np.abs(x.reshape(-1, 32)).argmax(1)[:, None], 1)
    q = quantize(jnp.asarray(x), ggml_q5_0)
    np.testing.assert_array_equal(
        np.asarray(q.scale, np.float32).reshape(-1, 1),
        (largest / -16).astype(np.float16).astype(np.float32),
    )
    error = np.abs(np.asarray(dequantize(q)) - x).reshape(-1, 32).max(1)
    assert (error <= 1.001 * np.abs(largest[:, 0]) / 16 + 2e-6).all()


def test_the_high_nibble_of_bnb_s_bytes_comes_first():
    x = jnp.asarray(np.tile(np.array([1.0, -1.0], np.float32), 32))
    np.testing.assert_array_equal(quantize(x, bnb_nf4).codes, np.full(32, 0xF0))


@pytest.mark.parametrize(
    ("format", "bits"),
    [
        (ggml_q4_0, 4.5),
        (ggml_q4_1, 5.0),
        (ggml_q5_0, 5.5),
        (ggml_q5_1, 6.0),
        (ggml_q8_0, 8.5),
        (ocp_mxfp4, 4.25),
        (ocp_mxfp6_e2m3, 6.25),
        (ocp_mxfp8_e4m3, 8.25),
        (nvfp4, 4.5 + 32 / (64 * 4096)),
        (bnb_nf4, 4.5),
        (float16, 16.0),
        (int4(group_size=128, scale_dtype="float16"), 4 + 16 / 64),  # 64 rows: a short group
        (int4(axis=-1, group_size=128, scale_dtype="float16"), 4.125),
    ],
    ids=str,
)
def test_bits_a_weight_are_the_published_ones(format, bits):
    assert bits_per_weight(format, (64, 4096)) == bits


def test_bits_of_no_weights_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 4\] holds no weights"):
        bits_per_weight(int4(), (0, 4))


@pytest.mark.parametrize(
    ("format", "published"),
    [
        (int8(group_size=128), 43.78),
        (int4(group_size=128), 18.60),
        (int4(group_size=128, bound="half"), 19.11),
        (int4(group_size=128, symmetric=False), 19.95),
        (nf4(group_size=128), 20.39),
        (bfloat16, 55.6),
        (float16, 73.7),
    ],
    ids=str,
)
def test_noise_on_normal_weights_is_the_published_one(format, published):
    """N(0, 1), 1024 × 1024; the last two from a survey's measurement, to a tenth."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1024, 1024)), jnp.float32)
    assert float(sqnr(x, rounded=format)) == pytest.approx(published, abs=0.05)
