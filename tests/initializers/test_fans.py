"""Fans agree with the axes that were declared."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlab.initializers import fans, lecun_normal, orthogonal


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((784, 300), {}, (784, 300)),
        ((300, 784), {"in_axis": 1, "out_axis": 0}, (784, 300)),
        ((3, 3, 16, 32), {}, (144, 288)),
        ((32, 16, 3, 3), {"in_axis": 1, "out_axis": 0}, (144, 288)),
        ((512, 8, 64), {"in_axis": 0, "out_axis": (1, 2)}, (512, 512)),
        ((8, 64, 512), {"in_axis": (0, 1), "out_axis": 2}, (512, 512)),
        ((12, 512, 512), {"batch_axis": 0}, (512, 512)),
        (
            (12, 512, 3, 8, 64),
            {"in_axis": 1, "out_axis": (-2, -1), "batch_axis": (0, 2)},
            (512,) * 2,
        ),
        ((8, 64), {"in_axis": (), "out_axis": (0, 1)}, (1, 512)),
    ],
)
def test_fans_of_known_kernels(shape, axes, expected):
    assert fans(shape, **axes) == expected


@given(st.data())
def test_fans_do_not_depend_on_the_order_of_the_axes(data):
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=5), label="sizes")
    order = data.draw(st.permutations(range(len(sizes))), label="order")
    permuted = tuple(sizes[axis] for axis in order)
    axes = {"in_axis": order.index(len(sizes) - 2), "out_axis": order.index(len(sizes) - 1)}
    field = math.prod(sizes[:-2])
    assert fans(permuted, **axes) == (sizes[-2] * field, sizes[-1] * field)
    assert fans(permuted, **axes) == fans(sizes)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((512, 8, 64), {"in_axis": 0, "out_axis": (1, 2)}),
        ((8, 64, 512), {"in_axis": (0, 1), "out_axis": 2}),
        ((3, 512, 512), {"batch_axis": 0}),
        ((512, 64, 3), {"in_axis": 0, "out_axis": 1, "batch_axis": 2}),
        ((5, 5, 64, 32), {}),
    ],
)
def test_outputs_of_unit_inputs_have_unit_variance_when_axes_are_declared(shape, axes, key):
    """The oracle is the layer itself: contract the inputs, leave the rest."""
    kernel = np.asarray(lecun_normal(**axes)(key, shape))
    in_axis = axes.get("in_axis", -2)
    contracted = {a % len(shape) for a in (in_axis if isinstance(in_axis, tuple) else (in_axis,))}
    if shape[:2] == (5, 5):
        contracted |= {0, 1}
    square_sums = np.sum(np.square(kernel), axis=tuple(contracted))
    standard_error = math.sqrt(2 / kernel.size)
    assert abs(square_sums.mean() - 1) < 5 * standard_error


def test_orthogonal_attention_and_stacked_kernels_are_orthogonal_layer_by_layer(key):
    query = orthogonal(in_axis=0, out_axis=(1, 2))(key, (32, 4, 8)).reshape(32, 32)
    np.testing.assert_allclose(query.T @ query, np.eye(32), atol=1e-5)
    stacked = orthogonal(batch_axis=0)(key, (3, 16, 16))
    gram = jnp.einsum("lio,lip->lop", stacked, stacked)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(16), (3, 16, 16)), atol=1e-5)
    assert not np.allclose(stacked[0], stacked[1])


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((5,), {}, r"Shape \(5,\) has no axis -2 \(in_axis\)"),
        ((), {}, r"Shape \(\) has no axis -2"),
        ((4, 4), {"batch_axis": 2}, r"has no axis 2 \(batch_axis\)"),
        ((4, 4), {"in_axis": 1}, "declared twice"),
        ((4, 4, 4), {"batch_axis": -1}, "declared twice"),
    ],
)
def test_axes_that_are_not_there_are_refused(shape, axes, message):
    with pytest.raises(ValueError, match=message):
        fans(shape, **axes)
    with pytest.raises(ValueError, match=message):
        lecun_normal(**axes)(jax.random.key(0), shape)
