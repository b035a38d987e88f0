"""Steps that multiply: factors of operands add up to those of the result."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wlab.graph.scaled.factors import Clash, Factors, Ties, merged, reshaped, short
from wlab.graph.scaled.links import linked
from wlab.graph.scaled.program import Step
from wlab.graph.scaled.state import Outcomes, State, shape_of


class Side(NamedTuple):
    """A value of a step, as some of the axes that all values of the step have together.

    Attributes:
        number: Of the value.
        split: The shape in which its axes are those.
        axes: For each of these, its place among the common ones; None if it must have one factor.
        power: 1 for an operand, −1 for what is divided by and for the result.
    """

    number: int
    split: tuple[int, ...]
    axes: tuple[int | None, ...]
    power: int = 1


def product(step: Step, state: State) -> Outcomes:
    """`mul`, and `div`."""
    inverse = -1 if step.name == "div" else 1
    powers = zip((*step.inputs, *step.outputs), (1, inverse, -1), strict=True)
    sides = []
    for number, power in powers:
        shape = shape_of(state, number)
        sides.append(Side(number, shape, tuple(range(len(shape))), power))
    return solved(state, sides, len(shape_of(state, step.outputs[0])))


def alike(step: Step, state: State) -> Outcomes:
    """Operands and result have one factor, entry by entry: sums, differences, maxima, choices."""
    (result,) = step.outputs
    for number in step.inputs[step.name == "select_n" :]:
        if number not in state.program.free:
            state = _agreed(state, number, result)
    return [state]


def compared(step: Step, state: State) -> Outcomes:
    """Which of two is larger, which stays so if both have one factor."""
    operands = [number for number in step.inputs if number not in state.program.free]
    return [_agreed(state, *operands) if len(operands) == 2 else state]


def signs(step: Step, state: State) -> Outcomes:
    """What positive factors of operands don't touch: it has none."""
    if any(state.moves(number) for number in step.outputs):
        raise Clash("no factor changes it")
    return [state]


def dot(step: Step, state: State) -> Outcomes:
    """`dot_general`."""
    contract, batch = step.equation.params["dimension_numbers"]
    shapes = [shape_of(state, n) for n in step.inputs]
    batches = len(batch[0])
    free = [
        [i for i in range(len(shape)) if i not in {*c, *b}]
        for shape, c, b in zip(shapes, contract, batch, strict=True)
    ]
    firsts = (batches, batches + len(free[0]))
    total = batches + len(free[0]) + len(free[1])
    sides = []
    for number, shape, c, b, own, first in zip(
        step.inputs, shapes, contract, batch, free, firsts, strict=True
    ):
        at: dict[int, int] = {i: j for j, i in enumerate(b)}
        at |= {i: first + j for j, i in enumerate(own)}
        at |= {i: total + j for j, i in enumerate(c)}
        sides.append(Side(number, shape, tuple(at[i] for i in range(len(shape)))))
    result = step.outputs[0]
    sides.append(Side(result, shape_of(state, result), tuple(range(total)), -1))
    return solved(state, sides, total + len(contract[0]), inward=step.site == state.site)


def convolution(step: Step, state: State) -> Outcomes:
    """A convolution: common axes are batch, groups, inputs and outputs of a group."""
    params = step.equation.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        raise Clash("it has groups of batches")
    (x, kernel), (result,) = step.inputs, step.outputs

    def side(number: int, spec: Sequence[int], places: Mapping[int, tuple[int, ...]]) -> Side:
        split: list[int] = []
        axes: list[int | None] = []
        for i, size in enumerate(shape_of(state, number)):
            at = places.get(spec.index(i))
            grouped = at is not None and len(at) == 2
            split += [groups, size // groups] if grouped else [size]
            axes += [None] if at is None else at
        return Side(number, tuple(split), tuple(axes), -1 if number == result else 1)

    sides = [
        side(x, numbers.lhs_spec, {0: (0,), 1: (1, 2)}),
        side(kernel, numbers.rhs_spec, {0: (1, 3), 1: (2,)}),
        side(result, numbers.out_spec, {0: (0,), 1: (1, 3)}),
    ]
    return solved(state, sides, 4, inward=step.site == state.site)


def solved(state: State, sides: Sequence[Side], rank: int, *, inward: bool = False) -> Outcomes:
    """The ways in which factors of operands can add up to those of the result.

    Args:
        state: What is known.
        sides: Two operands and the result.
        rank: How many axes they have together.
        inward: Whether the result must stay as it is.

    Raises:
        Clash: If there are none.
    """
    if not any(state.moves(side.number) for side in sides):
        return [state]
    lifted = []
    for side in sides:
        state, found = _lifted(state, side, rank)
        lifted.append(side.power * found)
    lifted = np.broadcast_arrays(*(state.ties.of(x) for x in lifted))
    count = np.sum([x != 0 for x in lifted], axis=0)
    if (count == 3).any():
        raise Clash("it would have two factors at once")
    state = _pairs_tied(state, lifted, count == 2)
    alone = [np.where(count == 1, x, 0) for x in lifted]
    nothing = not any(x.any() for x in alone)
    if nothing or any(side.number in state.program.free for side in sides):
        return [state]
    return _moved_on(state, sides, alone, inward)


def _moved_on(
    state: State, sides: Sequence[Side], alone: Sequence[Factors], inward: bool
) -> Outcomes:
    """Factors that one value has alone, given to another, which cancels them."""
    found: list[tuple[tuple[bool, int], State]] = []
    reasons: list[str] = []
    for i, side in enumerate(sides):
        needed = -np.sum([x for j, x in enumerate(alone) if j != i], axis=0)
        if not needed.any() or (inward and i == len(sides) - 1):
            continue
        try:
            own, ties = _lowered(short(side.power * needed), side, state)
            given = state.tied(ties).has(side.number, own)
        except Clash as clash:
            reasons.append(str(clash))
            continue
        kind = 1 if i == len(sides) - 1 else 0 if side.number in state.program.weights else 2
        found.append(((ties is not state.ties, kind), given))
    if not found:
        raise Clash("; ".join(dict.fromkeys(reasons)) or "its inputs can't be divided")
    return [given for _, given in sorted(found, key=lambda each: each[0])]


def _pairs_tied(state: State, lifted: Sequence[Factors], where: NDArray[np.bool_]) -> State:
    """Where two values have factors, they cancel."""
    high = np.maximum.reduce(lifted)[where]
    low = np.minimum.reduce(lifted)[where]
    if ((high <= 0) | (low >= 0)).any():
        raise Clash("it would have a factor twice, or need its inverse")
    return state.tied(state.ties.tied(high, -low))


def _lifted(state: State, side: Side, rank: int) -> tuple[State, Factors]:
    """In the axes that all values of the step have together."""
    x = reshaped(state.of(side.number), shape_of(state, side.number), side.split)
    alone = [i for i, at in enumerate(side.axes) if at is None]
    if any(x.shape[i] > 1 for i in alone):
        x, ties = merged(x, alone, state.ties)
        own = reshaped(x, side.split, shape_of(state, side.number))
        state = state.tied(ties).has(side.number, own)
    sizes, places = [1] * rank, {at: i for i, at in enumerate(side.axes) if at is not None}
    for at, i in places.items():
        sizes[at] = x.shape[i]
    return state, x.transpose([*(places[at] for at in sorted(places)), *alone]).reshape(sizes)


def _lowered(x: Factors, side: Side, state: State) -> tuple[Factors, Ties]:
    """From the common axes to those of the value."""
    sizes = {at: n for n, at in zip(side.split, side.axes, strict=True) if at is not None}
    lacking = [at for at in range(x.ndim) if sizes.get(at, 1) == 1 and x.shape[at] > 1]
    if lacking and side.power < 0:
        raise Clash("it is summed over")
    x, ties = merged(x, lacking, state.ties)
    x = x.transpose([*sorted(sizes), *(at for at in range(x.ndim) if at not in sizes)])
    x = x.reshape(x.shape[: len(sizes)])
    order = sorted(sizes)
    own = [1 if at is None else x.shape[order.index(at)] for at in side.axes]
    there = [order.index(at) for at in side.axes if at is not None]
    x = x.transpose(there).reshape(own)
    return reshaped(x, side.split, shape_of(state, side.number)), ties


def _agreed(state: State, one: int, other: int) -> State:
    """Two values that have one factor, entry by entry."""
    shapes = shape_of(state, one), shape_of(state, other)

    def there(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        return _as(x, shapes[1], ties)

    def back(x: Factors, ties: Ties) -> tuple[Factors, Ties]:
        return _as(x, shapes[0], ties)

    return linked(state, one, other, there, back)


def _as(x: Factors, shape: Sequence[int], ties: Ties) -> tuple[Factors, Ties]:
    """Of a value that the other is spread to, or is spread to it."""
    if not x.ndim or not shape:
        x, ties = merged(x, range(x.ndim), ties)
        return x.reshape((1,) * len(shape)), ties
    return merged(x, [i for i, size in enumerate(shape) if size == 1], ties)
