"""The rule of each equation: which positions of its results and operands are one.

A rule is given the ledger, the equation and what is known of its operands; it writes down what it
finds out and gives what is known of the results. None, or no rule: all that meets must stay.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wlab.graph.arranging import PASSING
from wlab.graph.coupled import arrangements, reductions
from wlab.graph.coupled.entrywise import entrywise
from wlab.graph.coupled.ledger import Ledger
from wlab.graph.coupled.products import convolution, dot
from wlab.graph.coupled.value import Value
from wlab.graph.meeting import ELEMENTWISE

Rule = Callable[[Ledger, Any, Sequence[Value]], list[Value] | None]


def related(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """What is known of the results of an equation that is no call and no loop."""
    name = equation.primitive.name
    if name in PASSING:
        return list(values)
    if any(0 in atom.aval.shape for atom in (*equation.invars, *equation.outvars)):
        return unrelated(ledger, equation, values)  # nothing can be told from no positions
    rule = entrywise if name in ELEMENTWISE else _RULES.get(name)
    found = None if rule is None else rule(ledger, equation, values)
    return unrelated(ledger, equation, values) if found is None else found


def unrelated(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """Results of which nothing is known: neither they nor the operands may lose anything."""
    results = [new(ledger, variable) for variable in equation.outvars]
    for value in (*values, *results):
        for axis in value.axes:
            ledger.freeze(axis, f"{equation.primitive.name} needs it whole")
    return results


def new(ledger: Ledger, variable: Any) -> Value:
    """A value of which nothing is known yet."""
    return Value(tuple(ledger.fresh(size) for size in variable.aval.shape))


_REDUCED = "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum"
_ACCUMULATED = "cumlogsumexp cummax cummin cumprod cumsum"
_WINDOWED = "reduce_window_max reduce_window_min reduce_window_sum"
_RULES: Mapping[str, Rule] = {
    "dot_general": dot,
    "conv_general_dilated": convolution,
    "reshape": arrangements.reshape,
    "transpose": arrangements.transpose,
    "squeeze": arrangements.squeeze,
    "broadcast_in_dim": arrangements.broadcast,
    "rev": arrangements.reverse,
    "slice": arrangements.cut_out,
    "split": arrangements.split,
    "unstack": arrangements.split,
    "concatenate": arrangements.concatenate,
    "pad": arrangements.pad,
    "iota": arrangements.iota,
    "gather": arrangements.gather,
    "dynamic_slice": arrangements.dynamic_slice,
    "dynamic_update_slice": arrangements.dynamic_update_slice,
    **dict.fromkeys(_REDUCED.split(), reductions.reduced),
    **dict.fromkeys(_ACCUMULATED.split(), reductions.accumulated),
    **dict.fromkeys(_WINDOWED.split(), reductions.windowed),
}
