"""Formats are plain values that refuse what they cannot mean."""

import jax.numpy as jnp
import pytest

from wlab.quantization import Format, Integers, int2, int4, int8, integer
from wlab.quantization.formats import check_leaf


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
        ({"bits": 4, "scale_dtype": "int8"}, "scale_dtype"),
    ],
    ids=str,
)
def test_fields_that_mean_nothing_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        integer(**fields)


@pytest.mark.parametrize(
    ("leaf", "format", "error", "named"),
    [
        (jnp.zeros((4, 4), jnp.int32), int4(), TypeError, "a/b is int32.*None"),
        (jnp.zeros((4, 4), jnp.complex64), int4(), TypeError, "complex64"),
        (jnp.zeros((4, 4)), int4(axis=-3), ValueError, "a/b.*axis -3 is out of range for rank 2"),
        (jnp.zeros((4, 4)), int4(axis=(0, 2)), ValueError, "out of range"),
        (jnp.zeros(()), int4(), ValueError, "scalar"),
    ],
)
def test_leaves_that_cannot_take_a_format_are_refused_by_name(leaf, format, error, named):
    with pytest.raises(error, match=named):
        check_leaf(leaf, format, "a/b")
