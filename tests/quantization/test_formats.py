"""Formats are plain values that refuse what they cannot mean."""

import jax.numpy as jnp
import pytest

from wlab.quantization import (
    Format,
    Integers,
    binary,
    bnb_nf4,
    float16,
    ggml_q4_0,
    ggml_q4_1,
    int2,
    int4,
    int8,
    integer,
    nvfp4,
)
from wlab.quantization.formats import check_leaf, check_span

BLOCKS = int4(axis=(-2, -1), group_size=(128, 64))


def test_formats_are_values():
    assert int4(group_size=128) == Format(Integers(4), axis=-2, group_size=128)
    assert {int8(): "a"}[integer(8)] == "a"
    assert str(int4(group_size=128, scale_dtype="float16")) == "int4 group 128 float16"
    assert str(int2(symmetric=False, axis=None)) == "int2 asymmetric tensor float32"


@pytest.mark.parametrize(
    ("grid", "codes", "steps"),
    [
        (Integers(4), (1, 15), 7),
        (Integers(4, bound="half"), (0, 15), 7.5),
        (Integers(4, symmetric=False), (0, 15), 15),
        (Integers(8), (1, 255), 127),
        (Integers(2, bound="half"), (0, 3), 1.5),
        (Integers(4, bound="full"), (0, 15), 8),
        (Integers(5, bound="signed"), (0, 31), 16),
    ],
    ids=str,
)
def test_a_grid_names_its_codes_and_its_bound(grid, codes, steps):
    assert ((grid.lowest, grid.highest), grid.steps) == (codes, steps)


def test_scales_follow_the_spanned_axes():
    shape = (3, 3, 300, 10)
    assert int8().scale_shape(shape) == (3, 3, 1, 10)
    assert int8(axis=None).scale_shape(shape) == (1, 1, 1, 1)
    assert int8(axis=(0, 1, 2)).scale_shape(shape) == (1, 1, 1, 10)
    assert int4(group_size=128).scale_shape(shape) == (3, 3, 3, 10)
    assert int4(group_size=128).scale_shape((300,)) == (3,)
    assert BLOCKS.scale_shape((5, 300, 100)) == (5, 3, 2)
    assert int4(axis=(-1, 0), group_size=(64, 2)).scale_shape((5, 300, 100)) == (3, 300, 2)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bits": 1}, "bits must be 2 to 8, got 1"),
        ({"bits": 9}, "bits must be 2 to 8, got 9"),
        ({"bits": 4, "bound": "qmin"}, "'qmin'"),
        ({"bits": 4, "bound": "half", "symmetric": False}, "asymmetric"),
        ({"bits": 4, "group_size": 0}, "group_size must be at least 1, got 0"),
        ({"bits": 4, "group_size": 8, "axis": None}, "one axis"),
        ({"bits": 4, "group_size": 8, "axis": (0, 1)}, "one axis"),
        ({"bits": 4, "group_size": (8, 8), "axis": 0}, "one axis"),
        ({"bits": 4, "group_size": (8,), "axis": (0, 1)}, "a size for each"),
        ({"bits": 4, "group_size": (8, 0), "axis": (0, 1)}, r"at least 1, got \(8, 0\)"),
        ({"bits": 4, "scale_dtype": "int8"}, "scale_dtype"),
        ({"bits": 4, "rounding": "floor"}, "'floor'"),
        ({"bits": 4, "axis": (0, 0)}, "names one axis twice"),
        ({"bits": 4, "symmetric": False, "scale_dtype": "float8_e8m0fnu"}, "take a symmetric"),
    ],
    ids=str,
)
def test_fields_that_mean_nothing_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        integer(**fields)


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"coding": "rounded"}, ValueError, "'rounded'"),
        ({"order": "middle"}, ValueError, "'middle'"),
        ({"outer": True}, ValueError, "goes with float8_e4m3fn scales, got float32"),
        ({"grid": float16.grid}, ValueError, "has no scales; give axis=None"),
        (
            {"grid": Integers(4, bound="signed"), "scale_dtype": "float8_e4m3fn"},
            ValueError,
            "symmetric",
        ),
    ],
    ids=str,
)
def test_conventions_that_mean_nothing_are_refused(fields, error, named):
    with pytest.raises(error, match=named):
        Format(**{"grid": Integers(4), **fields})


@pytest.mark.parametrize(
    ("axis", "group_size", "named"),
    [
        (-1, 2.5, "an int, a tuple of ints or None, got 2.5"),
        (-1, "128", "got '128'"),
        (-1, True, "got True"),
        ("channel", None, "a scale for each of the others.*'channel'"),
        ((0, "x"), None, "axis must be an int"),
    ],
)
def test_a_granularity_is_given_in_integers(axis, group_size, named):
    with pytest.raises(TypeError, match=named):
        check_span(axis, group_size)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Integers(4, zero="minimum"), "A symmetric grid has no minimum"),
        (lambda: Integers(4, symmetric=False, zero="float"), "'float'"),
        (lambda: Integers(4, symmetric=False, bound="signed"), 'no "signed" bound'),
    ],
)
def test_grids_that_mean_nothing_are_refused(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_names_say_every_convention():
    assert str(ggml_q4_0) == "int4 signed half_up group 32 float16 exact"
    assert str(nvfp4) == "fp4 e2m1 group 16 float8_e4m3fn outer"
    assert str(bnb_nf4) == "nf4 group 64 float32 high_first"
    assert str(float16) == "fp16"


@pytest.mark.parametrize(
    ("leaf", "format", "error", "named"),
    [
        (jnp.zeros((4, 4), jnp.int32), int4(), TypeError, "a/b is int32.*None"),
        (jnp.zeros((4, 4), jnp.complex64), int4(), TypeError, "complex64"),
        (jnp.zeros((4, 4)), int4(axis=-3), ValueError, "a/b.*axis -3 is out of range for rank 2"),
        (jnp.zeros((4, 4)), int4(axis=(0, 2)), ValueError, "out of range"),
        (jnp.zeros(()), int4(), ValueError, "scalar"),
        (jnp.zeros((4, 4)), int4(axis=(-1, 1)), ValueError, "one axis of rank 2 twice"),
        (jnp.zeros(4), BLOCKS, ValueError, "a/b.*rank 1 has no blocks of axes .-2, -1."),
        (jnp.zeros((4, 40)), ggml_q4_1, ValueError, "a/b.*40 entries leave a short.*divides 40"),
        (jnp.zeros((40, 4)), binary(group_size=32), ValueError, "short last group"),
    ],
)
def test_leaves_that_cannot_take_a_format_are_refused_by_name(leaf, format, error, named):
    with pytest.raises(error, match=named):
        check_leaf(leaf, format, "a/b")
