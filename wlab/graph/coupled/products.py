"""Equations that sum products."""

from collections.abc import Sequence
from typing import Any

from wlab.graph.coupled.ledger import Ledger
from wlab.graph.coupled.value import Value

_WINDOW = "a window runs over it"


def dot(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """`dot_general`: what is summed over must be zero where it is masked, on one side at least."""
    one, other = values
    contract, batch = equation.params["dimension_numbers"]
    for i, j in zip(*batch, strict=True):
        ledger.unite(one.axes[i], other.axes[j])
    for i, j in zip(*contract, strict=True):
        ledger.unite(one.axes[i], other.axes[j])
        if i not in one.zero and j not in other.zero:
            ledger.freeze(one.axes[i], "dot_general sums over it, and it is not zero when masked")
    free = [
        value.along(*(i for i in range(len(value.axes)) if i not in {*summed, *shared}))
        for value, summed, shared in zip(values, contract, batch, strict=True)
    ]
    shared = _either(one.along(*batch[0]), other.along(*batch[1]))
    return [_side_by_side(shared, *free)]


def convolution(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value] | None:
    """A convolution, of which each group has its own channels."""
    x, kernel = values
    params = equation.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        return None
    rows, channels, *space = numbers.lhs_spec
    outputs, inputs, *window = numbers.rhs_spec
    group = ledger.fresh(groups)
    ledger.unite(x.axes[channels], group + kernel.axes[inputs])
    if groups > 1:
        size = equation.invars[1].aval.shape[outputs] // groups
        ledger.unite(kernel.axes[outputs], group + ledger.fresh(size))
    for axis in (*(x.axes[i] for i in space), *(kernel.axes[i] for i in window)):
        ledger.freeze(axis, _WINDOW)
    found = [ledger.fixed(size, _WINDOW) for size in equation.outvars[0].aval.shape]
    found[numbers.out_spec[0]] = x.axes[rows]
    found[numbers.out_spec[1]] = kernel.axes[outputs]
    zero = {numbers.out_spec[0]} if rows in x.zero else set()
    zero |= {numbers.out_spec[1]} if outputs in kernel.zero else set()
    return [Value(tuple(found), frozenset(zero))]


def _either(one: Value, other: Value) -> Value:
    """The one's axes, zero where either's are."""
    return Value(one.axes, one.zero | other.zero)


def _side_by_side(*values: Value) -> Value:
    axes, zero = (), set()
    for value in values:
        zero |= {len(axes) + i for i in value.zero}
        axes += value.axes
    return Value(axes, frozenset(zero))
