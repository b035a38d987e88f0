"""A view names the leaf's entry at every position: held against NumPy's own arrangement."""

import math
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.graph import view as views
from wlab.graph.axes import Atom, length, regrouped, whole
from wlab.graph.view import View, of_leaf

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4).map(tuple)


def entries(view: View) -> np.ndarray:
    """The flat index in the leaf of each entry that the view describes."""
    strides = [math.prod(view.shape[i + 1 :]) for i in range(len(view.shape))]
    found = np.full((1,) * len(view.axes), np.dot(view.offsets, strides).astype(int))
    for i, axis in enumerate(view.axes):
        steps = np.zeros(1, int)
        for atom in axis:
            step = 0 if atom.axis is None else atom.stride * strides[atom.axis]
            steps = (steps[:, None] + step * np.arange(atom.size)).reshape(-1)
        found = found + steps.reshape([-1 if j == i else 1 for j in range(len(view.axes))])
    return found


def factored(data: st.DataObject, size: int) -> tuple[int, ...]:
    """A shape of some size."""
    shape = []
    for _ in range(data.draw(st.integers(0, 4))):
        shape.append(data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])))
        size //= shape[-1]
    return (*shape, size)


def transpose(data: st.DataObject, x: np.ndarray, v: View) -> tuple[np.ndarray, View | None]:
    order = data.draw(st.permutations(range(x.ndim)))
    return x.transpose(order), views.transposed(v, order)


def reshape(data: st.DataObject, x: np.ndarray, v: View) -> tuple[np.ndarray, View | None]:
    shape = factored(data, x.size)
    return x.reshape(shape), views.reshaped(v, shape)


def slices(data: st.DataObject, x: np.ndarray, v: View) -> tuple[np.ndarray, View | None]:
    starts = [data.draw(st.integers(0, n - 1)) for n in x.shape]
    limits = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, x.shape, strict=True)]
    steps = [data.draw(st.integers(1, 3)) for _ in x.shape]
    at = tuple(slice(*each) for each in zip(starts, limits, steps, strict=True))
    return x[at], views.sliced(v, starts, limits, steps)


def rev(data: st.DataObject, x: np.ndarray, v: View) -> tuple[np.ndarray, View | None]:
    axes = data.draw(st.sets(st.integers(0, x.ndim - 1)))
    return np.flip(x, tuple(axes)), views.flipped(v, tuple(axes))


def squeeze(data: st.DataObject, x: np.ndarray, v: View) -> tuple[np.ndarray, View | None]:
    del data
    ones = tuple(i for i, n in enumerate(x.shape) if n == 1)[: x.ndim - 1]
    return x.squeeze(ones), views.squeezed(v, ones)


def broadcast(data: st.DataObject, x: np.ndarray, v: View) -> tuple[np.ndarray, View | None]:
    if x.ndim > 4:
        return x, v
    at = data.draw(st.integers(0, x.ndim))
    count = data.draw(st.integers(1, 3))
    shape = (*x.shape[:at], count, *x.shape[at:])
    own = [i for i in range(len(shape)) if i != at]
    return np.broadcast_to(np.expand_dims(x, at), shape), views.broadcasted(v, shape, own)


STEPS: list[Callable[..., tuple[np.ndarray, View | None]]] = [
    *(transpose, reshape, slices, rev, squeeze, broadcast),
]


@settings(deadline=None, max_examples=400)
@given(SHAPES, st.lists(st.sampled_from(STEPS), max_size=6), st.data())
def test_a_view_knows_the_place_of_every_entry(shape, steps, data):
    x = np.arange(math.prod(shape)).reshape(shape)
    view: View | None = of_leaf("w", shape)
    for step in steps:
        x, view = step(data, x, view)
        if view is None:  # no description is allowed, a wrong one is not
            return
    np.testing.assert_array_equal(np.broadcast_to(entries(view), view.sizes), x)
    assert view.is_whole == (np.sort(x, axis=None).tolist() == list(range(math.prod(shape))))


@given(SHAPES, st.data())
def test_reshapes_of_a_leaf_and_back_are_the_leaf(shape, data):
    other = factored(data, math.prod(shape))
    there = regrouped(whole(shape), other)
    if there is not None:
        assert [length(axis) for axis in there] == list(other)
        back = regrouped(there, shape)
        assert back is not None
        assert [length(axis) for axis in back] == list(shape)
        spread = [tuple(atom for atom in axis if atom.size > 1) for axis in back]
        assert spread == [(Atom(i, n),) if n > 1 else () for i, n in enumerate(shape)]


def test_heads_that_are_split_off_are_known_by_their_strides():
    heads = regrouped(whole((16, 12)), (16, 3, 4))
    assert heads == ((Atom(0, 16),), (Atom(1, 3, 4),), (Atom(1, 4, 1),))


def test_a_factor_that_would_be_cut_unevenly_has_no_description():
    assert regrouped(whole((6, 4)), (4, 6)) is None


def test_a_turn_of_a_loop_takes_a_whole_axis_of_the_leaf_or_nothing():
    turn = views.one_turn(of_leaf("w", (3, 4, 5)))
    assert turn is not None
    assert (turn.sizes, turn.stack, turn.index) == ((4, 5), (0,), ())
    part = views.sliced(of_leaf("w", (3, 4)), (0, 0), (2, 4))
    assert part is not None and views.one_turn(part) is None


def test_a_fixed_position_is_told():
    part = views.sliced(of_leaf("w", (3, 4)), (2, 0), (3, 4))
    assert part is not None
    assert views.squeezed(part, (0,)).index == ((0, 2),)
    assert not part.is_whole
