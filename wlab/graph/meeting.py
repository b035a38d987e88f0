"""Equations in which a leaf meets other values, and which of its axes do what there."""

from collections.abc import Callable, Mapping
from typing import Any

from wlab.graph.axes import Axis
from wlab.graph.use import Site, Use
from wlab.graph.view import View

_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma div eq
erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic
lt max min mul ne neg nextafter not or pow real rem round rsqrt select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh xor
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())


def met(equation: Any, operand: int, view: View, site: Site) -> Use:
    """The use of a leaf as an operand; opaque if the equation has no description here."""
    name = equation.primitive.name
    rule = _entrywise if name in ELEMENTWISE else _RULES.get(name)
    found = None if rule is None else rule(equation, operand, view.axes)
    if found is None:
        return Use(site, name, operand, view, opaque=True)
    return Use(site, name, operand, view, **found)


_Axes = tuple[Axis, ...]
_Found = dict[str, Any] | None


def _entrywise(equation: Any, operand: int, axes: _Axes) -> _Found:
    """Each entry goes to its own place, or to several."""
    del equation, operand
    return {"free": axes}


def _dot(equation: Any, operand: int, axes: _Axes) -> _Found:
    contract, batch = (pair[operand] for pair in equation.params["dimension_numbers"])
    return {
        "contract": tuple(axes[i] for i in contract),
        "batch": tuple(axes[i] for i in batch),
        "free": tuple(axis for i, axis in enumerate(axes) if i not in {*contract, *batch}),
    }


def _conv(equation: Any, operand: int, axes: _Axes) -> _Found:
    params = equation.params
    if operand != 1 or params["batch_group_count"] != 1:
        return None
    out, into, *window = (axes[i] for i in params["dimension_numbers"].rhs_spec)
    groups = params["feature_group_count"]
    return {"contract": (into, *window), "free": (out,), "groups": groups}


def _gather(equation: Any, operand: int, axes: _Axes) -> _Found:
    """Chosen positions of some axes, all of the others."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = equation.invars[0].aval.shape
    chosen, batch = numbers.start_index_map, numbers.operand_batching_dims
    others = [i for i in range(len(axes)) if i not in {*chosen, *batch}]
    if operand != 0 or any(sizes[i] != shape[i] for i in others):
        return None
    return {
        "lookup": tuple(axes[i] for i in chosen if sizes[i] != shape[i] or shape[i] == 1),
        "batch": tuple(axes[i] for i in batch),
        "free": tuple(axes[i] for i in others),
    }


def _dynamic_slice(equation: Any, operand: int, axes: _Axes) -> _Found:
    sizes, shape = equation.params["slice_sizes"], equation.invars[0].aval.shape
    if operand != 0:
        return None
    chosen = [i for i in range(len(axes)) if sizes[i] != shape[i]]
    return {
        "lookup": tuple(axes[i] for i in chosen),
        "free": tuple(axis for i, axis in enumerate(axes) if i not in chosen),
    }


def _sum(equation: Any, operand: int, axes: _Axes) -> _Found:
    del operand
    summed = equation.params["axes"]
    return {
        "contract": tuple(axes[i] for i in summed),
        "free": tuple(axis for i, axis in enumerate(axes) if i not in summed),
    }


_RULES: Mapping[str, Callable[[Any, int, _Axes], _Found]] = {
    "concatenate": _entrywise,
    "pad": _entrywise,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "reduce_sum": _sum,
}
