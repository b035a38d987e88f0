"""Steps whose results have the factors of their operands, arranged in another way."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
from jax.extend.core import Literal

from wlab.graph.scaled.factors import Clash, Factors, Ties, merged, reshaped, short
from wlab.graph.scaled.program import Step
from wlab.graph.scaled.state import Outcomes, State, filled, shape_of, within

Image: TypeAlias = Callable[[Factors, Ties], tuple[Factors, Ties]]


def linked(state: State, one: int, other: int, there: Image, back: Image) -> State:
    """Two values, of which each says what the other has.

    Raises:
        Clash: If they can't agree.
    """
    if not (state.moves(one) or state.moves(other)):
        return state
    for source, target, image in ((one, other, there), (other, one, back)):
        found, ties = image(state.of(source), state.ties)
        state = state.tied(ties).has(target, found)
    return state


def passing(step: Step, state: State) -> Outcomes:
    """Result i is operand i."""
    for one, other in zip(step.inputs, step.outputs, strict=True):
        state = linked(state, one, other, _same, _same)
    return [state]


def transpose(step: Step, state: State) -> Outcomes:
    """Axes in another order."""
    order = step.equation.params["permutation"]
    back = tuple(np.argsort(order))
    return _one(step, state, lambda x: x.transpose(order), lambda x: x.transpose(back))


def reshape(step: Step, state: State) -> Outcomes:
    """The same entries in other axes; `squeeze` and `expand_dims` too."""
    old, new = (shape_of(state, n) for n in _ends(step))
    if 0 in old:
        raise Clash("it is empty")
    return _one(step, state, lambda x: reshaped(x, old, new), lambda x: reshaped(x, new, old))


def broadcast(step: Step, state: State) -> Outcomes:
    """Entries that are repeated have one factor."""
    shape, rank = shape_of(state, step.inputs[0]), len(step.equation.params["shape"])
    dims = step.equation.params["broadcast_dimensions"]

    def there(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        sizes = [1] * rank
        for i, size in zip(dims, x.shape, strict=True):
            sizes[i] = size
        return x.reshape(sizes), ties

    def back(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        own = {i for i, size in zip(dims, shape, strict=True) if size > 1}
        x, ties = merged(x, [i for i in range(rank) if i not in own], ties)
        return x.reshape([x.shape[i] for i in dims]), ties

    return [linked(state, *_ends(step), there, back)]


def rev(step: Step, state: State) -> Outcomes:
    """Axes read backwards."""
    axes = step.equation.params["dimensions"]
    return _one(step, state, lambda x: np.flip(x, axes), lambda x: np.flip(x, axes))


def cut(step: Step, state: State) -> Outcomes:
    """`slice`."""
    params = step.equation.params
    starts = params["start_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return [_part(state, *_ends(step), starts, strides)]


def dynamic_slice(step: Step, state: State) -> Outcomes:
    """A slice, if it begins at positions that the function holds as constants."""
    shape, part = (shape_of(state, n) for n in _ends(step))
    if shape == part:
        return [linked(state, *_ends(step), _same, _same)]
    given = step.equation.invars[1:]
    if not all(isinstance(start, Literal) for start in given):
        raise Clash("it is cut where the inputs say")
    ends = zip(given, shape, part, strict=True)
    starts = [min(max(int(start.val), 0), n - size) for start, n, size in ends]
    return [_part(state, *_ends(step), starts, (1,) * len(shape))]


def split(step: Step, state: State) -> Outcomes:
    """`split`, and `unstack`."""
    axis = step.equation.params["axis"]
    rank = len(shape_of(state, step.inputs[0]))
    sizes = map(int, step.equation.params.get("sizes", (1,) * len(step.outputs)))
    for part, (start, stop) in zip(
        step.outputs, pairwise(accumulate(sizes, initial=0)), strict=True
    ):
        state = _along(state, step.inputs[0], part, axis, start, stop - start, rank)
    return [state]


def concatenate(step: Step, state: State) -> Outcomes:
    """Each operand is a part of the result."""
    axis = step.equation.params["dimension"]
    rank, start = len(shape_of(state, step.outputs[0])), 0
    for number in step.inputs:
        size = shape_of(state, number)[axis]
        if number not in state.program.free:
            state = _along(state, step.outputs[0], number, axis, start, size, rank)
        start += size
    return [state]


def pad(step: Step, state: State) -> Outcomes:
    """The operand is a part of the result; the rest must be what no factor changes."""
    number, filler = step.inputs
    config = step.equation.params["padding_config"]
    if filler not in state.program.free or any(low < 0 or high < 0 for low, high, _ in config):
        raise Clash("it is cut, or padded with numbers other than zero")
    starts, strides = [int(low) for low, _, _ in config], [int(n) + 1 for _, _, n in config]
    return [_part(state, step.outputs[0], number, starts, strides)]


def gather(step: Step, state: State) -> Outcomes:
    """Axes that are read whole go on; along the others there must be one factor."""
    params = step.equation.params
    if params.get("fill_value") not in (None, 0) and not np.isnan(params["fill_value"]):
        raise Clash(f"it fills up with {params['fill_value']}")
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    shape, rank = shape_of(state, step.inputs[0]), len(shape_of(state, step.outputs[0]))
    left = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    places = zip([i for i in range(len(shape)) if i not in left], numbers.offset_dims, strict=True)
    own = {i: j for i, j in places if sizes[i] == shape[i]}

    def there(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        x, ties = merged(x, [i for i in range(len(shape)) if i not in own], ties)
        return _moved(x, own, rank), ties

    def back(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        x, ties = merged(x, [j for j in range(rank) if j not in own.values()], ties)
        return _moved(x, {j: i for i, j in own.items()}, len(shape)), ties

    return [linked(state, *_ends(step), there, back)]


def reduced(step: Step, state: State) -> Outcomes:
    """Sums and largest entries: along the axes that go, there is one factor."""
    axes = tuple(map(int, step.equation.params["axes"]))  # some are NumPy's

    def there(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        x, ties = merged(x, axes, ties)
        return x.squeeze(axes), ties

    def back(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        return np.expand_dims(x, axes), ties

    return [linked(state, *_ends(step), there, back)]


def windowed(step: Step, state: State) -> Outcomes:
    """Sums and largest entries of windows, or of all entries so far."""
    params, sizes = (
        step.equation.params,
        zip(*map(partial(shape_of, state), _ends(step)), strict=True),
    )
    windows = params.get("window_dimensions", ())
    axes = {i for i, (n, new) in enumerate(sizes) if n != new}
    axes |= {params["axis"]} if not windows else {i for i, n in enumerate(windows) if n > 1}

    def image(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        return merged(x, sorted(axes), ties)

    return [linked(state, *_ends(step), image, image)]


def turn(step: Step, state: State) -> Outcomes:
    """One turn's part of what a loop runs over: each turn has factors of its own."""
    outer, inner = _ends(step)
    if not (state.moves(outer) or state.moves(inner)):
        return [state]
    if step.site not in state.turns:
        raise Clash("a loop runs over it")
    count, length = state.turns[step.site], shape_of(state, outer)[0]

    def stacked(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        starts = np.arange(length).reshape(-1, *(1,) * x.ndim) * count
        return ties.of(np.sign(x) * (np.abs(x) + starts)), ties

    def first(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        x = filled(x, 0, length)
        again, _ = stacked(x[0], ties)
        if not (again == x).all():
            raise Clash("turns of a loop would differ in more than their factors")
        return short(x[0]), ties

    return [linked(state, outer, inner, first, stacked)]


def _ends(step: Step) -> tuple[int, int]:
    return step.inputs[0], step.outputs[0]


def _same(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
    return x, ties


def _one(
    step: Step, state: State, there: Callable[[Factors], Any], back: Callable[[Factors], Any]
) -> Outcomes:
    """A step with an operand and a result, between which entries only move."""
    operand, result = _ends(step)
    return [linked(state, operand, result, lambda x, t: (there(x), t), lambda x, t: (back(x), t))]


def _along(
    state: State, whole: int, part: int, axis: int, start: int, size: int, rank: int
) -> State:
    """A part of one axis; it may lack the axis, if it has one position."""
    lacks = len(shape_of(state, part)) < rank

    def there(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        x = x if x.shape[axis] == 1 else x.take(range(start, start + size), axis)
        return short(x.squeeze(axis) if lacks else x), ties

    def back(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        x, total = np.expand_dims(x, axis) if lacks else x, shape_of(state, whole)[axis]
        return x if size == total else within(filled(x, axis, size), axis, start, 1, total), ties

    return linked(state, whole, part, there, back)


def _part(
    state: State, whole: int, part: int, starts: Sequence[int], strides: Sequence[int]
) -> State:
    """A part of several axes."""
    long, small = shape_of(state, whole), shape_of(state, part)
    cuts = [i for i in range(len(long)) if long[i] != small[i]]

    def there(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        for i in cuts:
            if x.shape[i] > 1:
                x = x.take(np.arange(small[i]) * strides[i] + starts[i], i)
        return short(x), ties

    def back(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        for i in cuts:
            x = within(filled(x, i, small[i]), i, starts[i], strides[i], long[i])
        return x, ties

    return linked(state, whole, part, there, back)


def _moved(x: Factors, places: Mapping[int, int], rank: int) -> Factors:
    """With axes at other places; what has none has size 1."""
    sizes, order = [1] * rank, sorted(places, key=lambda i: places[i])
    for i, j in places.items():
        sizes[j] = x.shape[i]
    return x.transpose([*order, *(i for i in range(x.ndim) if i not in places)]).reshape(sizes)
