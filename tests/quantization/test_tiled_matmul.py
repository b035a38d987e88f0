"""Products tile by tile: the same as with the whole dequantized matrix, whatever lies in a byte."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.quantization import dequantize, integer, quantize, ternary
from wlab.quantization import presets as p
from wlab.quantization.execution.matmuls import planes_of, tile_rows, tiled_matmul

INT4 = integer(4, group_size=8, scale_dtype="float16")
CASES = {
    "nibbles": (INT4, 6, 2),
    "the high nibble first": (replace(INT4, order="high_first"), 6, 2),
    "zero points": (integer(4, group_size=8, symmetric=False), 6, 2),
    "one scale for all": (integer(4, axis=None), 6, 2),
    "a scale a row": (integer(4, axis=-1), 6, 2),
    "one group": (integer(4), 6, 2),
    "pairs of bits": (integer(2, group_size=8), 8, 4),
    "single bits": (replace(p.binary(), group_size=8), 16, 8),
    "three values": (replace(ternary(), group_size=8), 8, 4),
    "a codebook": (replace(p.nf4(), axis=-2, group_size=8), 6, 2),
    "outputs that end within a byte": (INT4, 7, 1),
    "codes across bytes": (integer(3, group_size=8), 8, 1),
    "whole bytes": (integer(8, group_size=8), 6, 1),
    "blocks of outputs": (integer(4, axis=(-2, -1), group_size=(8, 2)), 6, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_product_with_the_dequantized_matrix(case):
    format, outputs, planes = CASES[case]
    x = jax.random.normal(jax.random.key(0), (3, 32))
    w = jax.random.normal(jax.random.key(1), (32, outputs))
    q = jax.jit(quantize, static_argnames="format")(w, format=format)
    assert planes_of(q) == planes
    assert 0 < tile_rows(q) < 32
    found = jax.jit(tiled_matmul, static_argnums=2)(x, q, tile_rows(q))
    expected = np.asarray(x, np.float64) @ np.asarray(jax.jit(dequantize)(q), np.float64)
    assert len(np.unique(np.round(expected, 6))) > 3 * outputs / 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert found.dtype == jnp.float32
