"""Small floats against `ml_dtypes`: every code, every tie, every cast."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from family_twin import FLOATS

from wlab import quantization
from wlab.quantization import Floats, bfloat16, dequantize, float16, presets
from wlab.quantization.grids import Fit

GRIDS: dict[str, Any] = {
    "e4m3": presets.ocp_mxfp8_e4m3.grid,
    "e5m2": presets.ocp_mxfp8_e5m2.grid,
    "e2m3": presets.ocp_mxfp6_e2m3.grid,
    "e3m2": presets.ocp_mxfp6_e3m2.grid,
    "e2m1": presets.ocp_mxfp4.grid,
}
CASTS = {
    "float16": (float16, np.dtype(np.float16), 65504.0),
    "bfloat16": (bfloat16, np.dtype(ml_dtypes.bfloat16), 3.3895313892515355e38),
}
encode = jax.jit(lambda x, grid: grid.encode(x, UNIT), static_argnums=1)
decode = jax.jit(lambda codes, grid: grid.decode(codes, UNIT), static_argnums=1)
UNIT = Fit(jnp.ones((1,), jnp.float32), None)


def bits_of(x):
    return np.asarray(x, np.float32).view(np.uint32)


def finite_codes(name):
    codes = np.arange(2 ** GRIDS[name].bits, dtype=np.uint8)
    values = codes.view(FLOATS[name][0]).astype(np.float32)
    return codes[np.isfinite(values)], values[np.isfinite(values)]


@pytest.mark.parametrize("name", GRIDS)
def test_every_code_is_the_number_that_ml_dtypes_says_and_back(name):
    codes, values = finite_codes(name)
    read = decode(jnp.asarray(codes, jnp.float32), GRIDS[name])
    np.testing.assert_array_equal(bits_of(read), bits_of(values))
    np.testing.assert_array_equal(encode(jnp.asarray(values), GRIDS[name]), codes)
    assert GRIDS[name].steps == values.max() == FLOATS[name][3]
    assert GRIDS[name].top == codes[values.argmax()]


def hard(values):
    """Grid points, the midpoints between them, their float32 neighbours, and tiny numbers."""
    points = np.unique(values)
    middles = ((points[1:].astype(np.float64) + points[:-1]) / 2).astype(np.float32)
    at = np.concatenate([points, middles])
    near = [np.nextafter(at, np.float32(end), dtype=np.float32) for end in (-np.inf, np.inf)]
    tiny = np.array([0.0, 1e-45, 1e-39, 1.2e-38, 1e-20], np.float32)
    return np.concatenate([at, *near, tiny, -tiny]).astype(np.float32)


@pytest.mark.parametrize("name", GRIDS)
def test_the_nearest_code_is_ml_dtypes_cast_at_every_tie_and_beyond_the_ends(name):
    dtype, _, _, largest = FLOATS[name]
    _, values = finite_codes(name)
    rng = np.random.default_rng(0)
    some = (rng.standard_normal(2000) * np.exp(rng.uniform(-12, 5, 2000))).astype(np.float32)
    x = np.concatenate([hard(values), some, [1e30, -1e30, largest * 1.1]]).astype(np.float32)
    expected = np.clip(x, -largest, largest).astype(dtype).view(np.uint8)
    np.testing.assert_array_equal(encode(jnp.asarray(x), GRIDS[name]), expected)
    np.testing.assert_array_equal(GRIDS[name].encode(jnp.asarray(x), UNIT), expected)


@pytest.mark.parametrize("name", CASTS)
def test_casts_are_numpy_s_but_saturate_and_keep_what_is_not_finite(name):
    format, dtype, largest = CASTS[name]
    rng = np.random.default_rng(0)
    some = rng.standard_normal(3000) * np.exp(rng.uniform(-60, 60, 3000))
    every = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)[::37]
    every = every[np.isfinite(every)]
    special = [np.nan, np.inf, -np.inf, 3e38, -3.4e38, 65519.0, 65521.0, 0.0, -0.0, 6e-8, 1e-40]
    x = np.concatenate([some, hard(every), special]).astype(np.float32)
    with np.errstate(over="ignore"):
        saturated = np.where(np.isinf(x), x, np.clip(x, -largest, largest)).astype(dtype)
    expected = bits_of(np.nan_to_num(saturated.astype(np.float32), posinf=np.inf, neginf=-np.inf))
    for run in (lambda f: f, jax.jit):
        q = run(lambda x: quantization.quantize(x, format))(jnp.asarray(x))
        quantization.check(q)
        assert q.scale is None
        found = dequantize(q)
        seen = run(lambda x: quantization.round_to_grid(x, format))(jnp.asarray(x))
        for rounded in (found, seen):
            assert np.isnan(rounded).sum() == 1
            plain = np.nan_to_num(rounded, posinf=np.inf, neginf=-np.inf)
            np.testing.assert_array_equal(bits_of(plain), expected)


def test_a_cast_to_e4m3_has_no_infinity_and_says_so_by_nan():
    format = quantization.Format(Floats(4, 3, special="nan", scaled=False), axis=None)
    x = jnp.array([np.inf, -np.inf, np.nan, 500.0, 448.0, 2.0**-10], jnp.float32)
    expected = [np.nan, np.nan, np.nan, 448, 448, 0]
    np.testing.assert_array_equal(quantization.round_to_grid(x, format), expected)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"special": "fn"}, "'fn'"),
        ({"exponent_bits": 9}, "1 to 8"),
        ({"exponent_bits": 1}, "one exponent bit"),
        ({"significand_bits": 11}, "0 to 10"),
        ({"exponent_bits": 5, "significand_bits": 10}, "at most 8 bits"),
        ({"special": "none", "scaled": False}, "there must be a NaN"),
    ],
    ids=str,
)
def test_fields_that_mean_nothing_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        Floats(**{"exponent_bits": 4, "significand_bits": 3, **fields})
