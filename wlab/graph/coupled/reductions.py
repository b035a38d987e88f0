"""Equations that make one of several along an axis."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wlab.graph.coupled.ledger import Ledger
from wlab.graph.coupled.value import Value

_ZERO_OF_ZEROS = """
cummax cummin cumprod cumsum reduce_max reduce_min reduce_prod reduce_sum reduce_window_max
reduce_window_min reduce_window_sum
"""
ZERO_OF_ZEROS = frozenset(_ZERO_OF_ZEROS.split())


def reduced(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """A sum may lose terms that are zero; a largest entry or a product may not."""
    (value,), name = values, equation.primitive.name
    gone = equation.params["axes"]
    for i in gone:
        if name != "reduce_sum" or i not in value.zero:
            ledger.freeze(value.axes[i], f"{name} runs over it, and it is not zero when masked")
    kept = value.along(*(i for i in range(len(value.axes)) if i not in gone))
    return [_zero_of_zeros(name, kept)]


def accumulated(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """What runs along an axis needs every position of it."""
    (value,), name, i = values, equation.primitive.name, equation.params["axis"]
    ledger.freeze(value.axes[i], f"{name} runs along it")
    return [_zero_of_zeros(name, value)]


def windowed(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """What looks at neighbours needs every position."""
    (value,), params = values, equation.params
    name, shape = equation.primitive.name, equation.outvars[0].aval.shape
    for i, window in enumerate(params["window_dimensions"]):
        if window > 1 or shape[i] != equation.invars[0].aval.shape[i]:
            ledger.freeze(value.axes[i], f"{name} runs over it")
            value = value.with_axis(i, ledger.fixed(shape[i], f"{name} runs over it"))
    return [_zero_of_zeros(name, value)]


def _zero_of_zeros(name: str, value: Value) -> Value:
    zero = value.zero if name in ZERO_OF_ZEROS else frozenset()
    return replace(value, zero=zero, fill=None)
