"""Steps only move elements: there and back is bit-identical, in NumPy, JAX and on shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.pretrained.ops import (
    Concatenate,
    Halves,
    Reshape,
    Split,
    Stack,
    Transpose,
    Unstack,
    forward,
    inverse,
)

RNG = np.random.default_rng(0)


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


CASES = {
    "transpose": ((Transpose(),), [numbered(3, 5)]),
    "conv": ((Transpose((2, 3, 1, 0)),), [numbered(4, 3, 5, 2)]),
    "reshape": ((Reshape((6, 4), (6, 2, 2)),), [numbered(6, 4)]),
    "fused q, k, v": ((Split((4, 2, 2), axis=-1),), [numbered(3, 8)]),
    "concatenate": ((Concatenate((2, 3)),), [numbered(2, 4), numbered(3, 4)]),
    "stack": ((Stack(1),), [numbered(2, 3), -numbered(2, 3)]),
    "unstack": ((Unstack(), Transpose()), [numbered(3, 2, 4)]),
    "rotary": ((Halves(2), Transpose()), [numbered(8, 3)]),
    "all": (
        (Unstack(), Halves(2), Transpose(), Concatenate((3, 3), axis=0)),
        [numbered(2, 8, 3)],
    ),
}


@pytest.mark.parametrize(("ops", "arrays"), CASES.values(), ids=CASES)
def test_there_and_back_is_the_identity(ops, arrays):
    back = inverse(ops, forward(ops, arrays))
    assert len(back) == len(arrays)
    for x, y in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("ops", "arrays"), CASES.values(), ids=CASES)
def test_jax_numpy_and_shapes_agree(ops, arrays):
    found = forward(ops, arrays)
    in_jax = forward(ops, [jnp.array(x) for x in arrays])
    shapes = jax.eval_shape(lambda: forward(ops, [jnp.zeros(x.shape, bool) for x in arrays]))
    for x, y, shape in zip(found, in_jax, shapes, strict=True):
        np.testing.assert_array_equal(x, y)
        assert shape.shape == x.shape


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_any_transposition_is_undone(axes, shape):
    x = RNG.normal(size=shape)
    op = Transpose(tuple(axes))
    np.testing.assert_array_equal(op.inverse(op.forward([x]))[0], x)
    assert op.forward([x])[0].shape == tuple(shape[i] for i in axes)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_halves_gathers_the_first_members_of_all_pairs(heads: int):
    size = 6
    x = np.arange(heads * size)[:, None]
    order = [head * size + i for head in range(heads) for i in (0, 2, 4, 1, 3, 5)]
    np.testing.assert_array_equal(Halves(heads).forward([x])[0][:, 0], order)


@pytest.mark.parametrize(
    ("op", "array"),
    [(Split((2, 2)), numbered(5, 2)), (Reshape((2, 3), (3, 2)), numbered(3, 2))],
)
def test_another_size_is_refused(op, array):
    with pytest.raises(ValueError, match="is not"):
        op.forward([array])
