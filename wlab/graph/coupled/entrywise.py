"""Equations that make each entry of the result from those in its place."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.extend.core import Literal

from wlab.graph.coupled.ledger import Ledger
from wlab.graph.coupled.value import Value

_ZERO_AT_ZERO = """
abs asin asinh atan atanh cbrt ceil convert_element_type erf erf_inv expm1 floor imag log1p neg real
round sign sin sinh sqrt square tan tanh
"""
ZERO_AT_ZERO = frozenset(_ZERO_AT_ZERO.split())
_OF_TWO: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "add_any": operator.add,
    "sub": operator.sub,
    "max": max,
    "min": min,
    "pow": lambda base, exponent: base**exponent if exponent > 0 else 1,
}


def entrywise(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """All operands of the result's rank have its positions."""
    (result,) = equation.outvars
    shaped = [value for value in values if len(value.axes) == len(result.aval.shape)]
    axes = []
    for i, size in enumerate(result.aval.shape):
        first, *others = [v.axes[i] for v in shaped if v.axes[i]] or [ledger.fresh(size)]
        for other in others:
            ledger.unite(first, other)
        if _is_infinite(equation, values, i):
            reason = f"{equation.primitive.name} is not finite where it is masked"
            ledger.freeze(first, reason)
        axes.append(first)
    zero = (i for i in range(len(axes)) if axes[i] and _is_zero(equation, values, i))
    return [Value(tuple(axes), frozenset(zero))]


def literal(atom: Any) -> Value:
    """What is known of a number that stands in the equation itself."""
    return Value((), fill=atom.val)


def is_literal(atom: Any) -> bool:
    """Whether an operand stands in the equation itself."""
    return isinstance(atom, Literal)


def _is_infinite(equation: Any, values: Sequence[Value], i: int) -> bool:
    """Whether something is divided by the zeros of masked positions."""
    match equation.primitive.name:
        case "digamma" | "div" | "log" | "rem" | "rsqrt":
            return _vanishes(values[-1], i)
        case "integer_pow":
            return _vanishes(values[0], i) and equation.params["y"] < 0
        case "pow":
            return _vanishes(values[0], i) and not _has_sign(values[1], 1)
        case _:
            return False


def _is_zero(equation: Any, values: Sequence[Value], i: int) -> bool:
    """Whether the result is zero where position i is masked, supposing that all is finite."""
    name = equation.primitive.name
    zero = [_vanishes(value, i) for value in values]
    if name in ("mul", "and"):
        return any(zero)
    if name in ("div", "rem"):
        return zero[0]
    if name == "select_n":
        return all(zero[1:])
    if name == "clamp":
        return zero[1] and all(z or _has_sign(v, s) for z, v, s in _bounds(zero, values))
    if name == "integer_pow":
        return zero[0] and equation.params["y"] > 0
    if name in ZERO_AT_ZERO:
        return zero[0]
    if name not in _OF_TWO or not any(zero):
        return False
    numbers = [0 if z else value.fill for z, value in zip(zero, values, strict=True)]
    return None not in numbers and bool(_OF_TWO[name](*numbers) == 0)


def _vanishes(value: Value, i: int) -> bool:
    return i in value.zero or (value.fill is not None and bool(value.fill == 0))


def _bounds(zero: Sequence[bool], values: Sequence[Value]) -> list[tuple[bool, Value, int]]:
    return [(zero[0], values[0], -1), (zero[2], values[2], 1)]


def _has_sign(value: Value, sign: int) -> bool:
    return value.fill is not None and bool(value.fill * sign >= 0)
