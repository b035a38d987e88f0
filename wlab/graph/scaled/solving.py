"""Moves factors from a leaf to others, step by step, until every step of a function is content."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from wlab.graph.arranging import PASSING
from wlab.graph.scaled import links, products
from wlab.graph.scaled.factors import Clash
from wlab.graph.scaled.program import TURN, Step
from wlab.graph.scaled.state import Outcomes, State

Rule: TypeAlias = Callable[[Step, State], Outcomes]


def solve(state: State, changed: Sequence[int]) -> State:
    """The state, with the factors that other values have then.

    Args:
        state: What is known.
        changed: The values that have got factors.

    Raises:
        Clash: If nothing can make up for them; the text has every reason that was met, a line each.
    """
    return _content(state, _touched(state, changed))


def _content(state: State, steps: Iterable[int]) -> State:
    """With these steps content, and all that they touch.

    A step that can be so in several ways waits for all others; then its ways are tried in turn.
    """
    waiting, undecided = dict.fromkeys(steps), dict[int, None]()
    while waiting:
        i = next(iter(waiting))
        del waiting[i]
        ways = _ways(state.program.steps[i], state)
        if len(ways) > 1:
            undecided[i] = None
            continue
        undecided.pop(i, None)
        waiting |= dict.fromkeys(_touched(state, _changes(state, ways[0])))
        state = ways[0]
    if not undecided:
        return state
    reasons: list[str] = []
    for way in _ways(state.program.steps[next(iter(undecided))], state):
        try:
            return _content(way, [*_touched(state, _changes(state, way)), *undecided])
        except Clash as clash:
            reasons += str(clash).split("\n")
    raise Clash("\n".join(dict.fromkeys(reasons)))


def _touched(state: State, values: Iterable[int]) -> list[int]:
    return [i for number in values for i in state.program.steps_of[number]]


def _changes(before: State, after: State) -> list[int]:
    old = before.factors
    return [n for n, factors in after.factors.items() if old.get(n) is not factors]


def _ways(step: Step, state: State) -> Outcomes:
    """What a step allows.

    Raises:
        Clash: If it allows nothing, naming the step.
    """
    if not any(map(state.moves, (*step.inputs, *step.outputs))):
        return [state]
    rule = links.passing if step.name in PASSING else _RULES.get(step.name)
    try:
        if rule is None:
            raise Clash("no factor can be taken out of it")
        return rule(step, state)
    except Clash as clash:
        within = f" (in {step.within})" if step.within else ""
        raise Clash(f"{step.name}{within}: {clash}") from None


_ALIKE = "abs add add_any max min neg select_n sub"
_COMPARED = "eq ge gt le lt ne"
_WINDOWED = """
cummax cummin cumsum reduce_window_max reduce_window_min reduce_window_sum
"""
_RULES: Mapping[str, Rule] = {
    "mul": products.product,
    "div": products.product,
    "dot_general": products.dot,
    "conv_general_dilated": products.convolution,
    "sign": products.signs,
    "transpose": links.transpose,
    "reshape": links.reshape,
    "squeeze": links.reshape,
    "expand_dims": links.reshape,
    "broadcast_in_dim": links.broadcast,
    "rev": links.rev,
    "slice": links.cut,
    "dynamic_slice": links.dynamic_slice,
    "split": links.split,
    "unstack": links.split,
    "concatenate": links.concatenate,
    "pad": links.pad,
    "gather": links.gather,
    "reduce_sum": links.reduced,
    "reduce_max": links.reduced,
    "reduce_min": links.reduced,
    TURN: links.turn,
    **dict.fromkeys(_ALIKE.split(), products.alike),
    **dict.fromkeys(_COMPARED.split(), products.compared),
    **dict.fromkeys(_WINDOWED.split(), links.windowed),
}
