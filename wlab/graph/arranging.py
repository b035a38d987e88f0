"""Equations that only arrange the entries of an operand, and what their results are to a leaf."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from jax.extend.core import Literal

from wlab.graph import view as views
from wlab.graph.view import View

Arranged = Sequence[View | None]  # one a result; None where it has no description

# Result i is operand i, but for a cast or a hint to the compiler.
_PASSING = """
convert_element_type copy copy_p layout_constraint mesh_cast name optimization_barrier pcast pvary
reduce_precision reshard sharding_constraint stop_gradient
"""
PASSING = frozenset(_PASSING.split())


def arranged(equation: Any, view: View) -> Arranged | None:
    """The results as views of the leaf that operand 0 is; None if the equation does more."""
    rule = _RULES.get(equation.primitive.name)
    if rule is None:
        return None
    found = rule(view, equation)
    return None if found is None else [v and stepped(v, equation) for v in found]


def stepped(view: View, equation: Any) -> View:
    """The view, with the equation among its steps."""
    return replace(view, steps=(*view.steps, equation.primitive.name))


def _transpose(view: View, equation: Any) -> Arranged:
    return [views.transposed(view, equation.params["permutation"])]


def _reshape(view: View, equation: Any) -> Arranged:
    return [views.reshaped(view, equation.params["new_sizes"])]


def _squeeze(view: View, equation: Any) -> Arranged:
    return [views.squeezed(view, equation.params["dimensions"])]


def _broadcast(view: View, equation: Any) -> Arranged:
    dimensions = [int(i) for i in equation.params["broadcast_dimensions"]]
    return [views.broadcasted(view, equation.params["shape"], dimensions)]


def _rev(view: View, equation: Any) -> Arranged:
    return [views.flipped(view, equation.params["dimensions"])]


def _slice(view: View, equation: Any) -> Arranged:
    params = equation.params
    return [views.sliced(view, params["start_indices"], params["limit_indices"], params["strides"])]


def _dynamic_slice(view: View, equation: Any) -> Arranged | None:
    """A slice, if it begins at positions that the function holds as constants."""
    starts = equation.invars[1:]
    if not all(isinstance(start, Literal) for start in starts):
        return None
    sizes = equation.params["slice_sizes"]
    room = [n - size for n, size in zip(view.sizes, sizes, strict=True)]
    firsts = [min(max(int(s.val), 0), most) for s, most in zip(starts, room, strict=True)]
    return [views.sliced(view, firsts, [a + n for a, n in zip(firsts, sizes, strict=True)])]


def _all_gather(view: View, equation: Any) -> Arranged | None:
    """All parts of a leaf that is cut over devices."""
    params = equation.params
    if not params["tiled"] or params.get("axis_index_groups") is not None:
        return None
    names = params["axis_name"]
    names = names if isinstance(names, tuple) else (names,)
    return [views.joined(view, params["all_gather_dimension"], names)]


def _split(view: View, equation: Any) -> Arranged:
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    return [_part(view, axis, a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def _unstack(view: View, equation: Any) -> Arranged:
    axis = equation.params["axis"]
    parts = (_part(view, axis, i, i + 1) for i in range(view.sizes[axis]))
    return [part and views.squeezed(part, [axis]) for part in parts]


def _part(view: View, axis: int, start: int, limit: int) -> View | None:
    sizes = view.sizes
    starts = [start if i == axis else 0 for i in range(len(sizes))]
    limits = [limit if i == axis else n for i, n in enumerate(sizes)]
    return views.sliced(view, starts, limits)


_RULES: Mapping[str, Callable[[View, Any], Arranged | None]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "rev": _rev,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "all_gather": _all_gather,
    "all_gather_invariant": _all_gather,
    "split": _split,
    "unstack": _unstack,
}

ARRANGING = PASSING | frozenset(_RULES)
