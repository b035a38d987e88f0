"""Leaves as parts of DequantizeLinear: what is refused, and the codes themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.quantization.arrays import dequantize, quantize
from wlab.quantization.formats import Format, int4, int8
from wlab.quantization.grids import Integers
from wlab.quantization.onnx_parts import OnnxParts, from_onnx_parts, to_onnx_parts
from wlab.quantization.presets import nf4, nvfp4

quantized = jax.jit(quantize, static_argnums=1)
GOOD = OnnxParts(np.zeros((2, 3), np.int8), np.ones(3, np.float32), None, 8, 1, 0)


def leaf(shape=(4, 6)):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_symmetric_codes_are_signed_and_others_are_not():
    x = jnp.asarray([[-7.0, 0.0, 1.0, 7.0]]).T
    parts = to_onnx_parts(quantized(x, int4()))
    assert (parts.bits, parts.axis, parts.block_size) == (4, 1, 0)
    np.testing.assert_array_equal(parts.codes, np.int8([[-7, 0, 1, 7]]).T)
    np.testing.assert_array_equal(parts.scale, np.float32([1]))
    x = jnp.asarray([[0.0, 3.0, 8.0, 15.0]]).T
    shifted = to_onnx_parts(quantized(x, int4(symmetric=False)))
    assert shifted.codes.dtype == shifted.zero_point.dtype == np.uint8
    np.testing.assert_array_equal(shifted.zero_point, [0])
    np.testing.assert_array_equal(shifted.codes, np.asarray(x))


def test_scales_are_as_wide_as_the_leaf():
    q = quantized(leaf(), int8(scale_dtype="float16"))
    assert to_onnx_parts(q).scale.dtype == np.float32
    assert to_onnx_parts(quantized(leaf().astype(jnp.float16), q.format)).scale.dtype == np.float16


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (Format(Integers(4, symmetric=False, zero="minimum")), "w is .*integer zero points"),
        (nf4(), "w is .*integers with integer zero points"),
        (nvfp4, "w is .*scales of 16 or 32 bits"),
        (Format(Integers(4), (-2, -1), (2, 2)), "w of .*blocks along one axis"),
    ],
)
def test_formats_without_a_place_are_refused_by_name(format, message):
    with pytest.raises(ValueError, match=message):
        to_onnx_parts(quantized(leaf((16, 16)), format), "w")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (GOOD._replace(scale=np.ones(2, np.float32)), r"takes scales of \[3\] along axis 1"),
        (GOOD._replace(axis=2), "out of range"),
        (GOOD._replace(axis=None), "out of range"),
        (GOOD._replace(scale=np.ones(3)), "scales of float64"),
        (GOOD._replace(codes=np.zeros((2, 3), np.int32), bits=32), "int32 and 32 bits"),
        (GOOD._replace(zero_point=np.zeros(3, np.uint8)), r"takes zero points of int8\[3\]"),
        (GOOD._replace(codes=np.full((2, 3), 8, np.int8), bits=4), "beyond 4 bits"),
        (GOOD._replace(block_size=2), r"takes scales of \[2, 2\]"),
        (GOOD._replace(codes=np.zeros((), np.int8)), "is a scalar"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=f"w .*{message}"):
        from_onnx_parts(parts, "w")


def test_a_code_for_every_entry_of_a_vector_with_its_own_scale():
    parts = OnnxParts(np.int8([3, -4]), np.float32([0.5, 2]), None, 8, 0, 0)
    np.testing.assert_array_equal(
        np.asarray(jax.jit(dequantize)(from_onnx_parts(parts))), [1.5, -8.0]
    )
