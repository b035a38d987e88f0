"""Equations at smaller sizes: what each needs beside smaller operands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool

from wlab.graph.compat import called
from wlab.graph.coupled.arrangements import parts, positions
from wlab.graph.evaluating import bound

Kept = Sequence[Bool[np.ndarray, "_"]]  # of each axis of a value
Resized = Callable[[Any, Sequence[Any], Sequence[Kept], Sequence[Kept]], Sequence[Any]]


def resized(
    equation: Any, operands: Sequence[Any], before: Sequence[Kept], after: Sequence[Kept]
) -> Sequence[Any]:
    """The results of an equation, of operands and results of which only some positions stay.

    Args:
        equation: No call and no loop.
        operands: Already smaller.
        before: The positions that stay of each axis of each operand.
        after: Those of each result.
    """
    rule = _RULES.get(equation.primitive.name)
    if rule is None:
        return bound(equation, operands)
    return rule(equation, operands, before, after)


def with_own_derivative(equation: Any) -> Callable[..., Array] | None:
    """The function that a call computes, if it is one whose derivative JAX defines by hand."""
    function = called(equation)
    if equation.primitive.name != "custom_jvp_call" or function is None:
        return None
    names = [inner.params.get("name") for inner in function.jaxpr.eqns]
    return _BY_HAND.get(names[0]) if len(names) == 1 else None


_BY_HAND: Mapping[str | None, Callable[..., Array]] = {
    "logaddexp": jax.numpy.logaddexp,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
}


def sizes(kept: Kept) -> tuple[int, ...]:
    """The shape that is left."""
    return tuple(int(axis.sum()) for axis in kept)


def taken(x: Array, kept: Kept) -> Array:
    """The positions of an array that stay."""
    for i, axis in enumerate(kept):
        x = _along(x, i, np.flatnonzero(axis))
    return x


def _along(x: Array, i: int, chosen: np.ndarray) -> Array:
    """Some positions of one axis; as a slice, if they are one."""
    if len(chosen) == x.shape[i] and (chosen == np.arange(len(chosen))).all():
        return x
    if len(chosen) and (np.diff(chosen) == 1).all():
        return jax.lax.slice_in_dim(x, int(chosen[0]), int(chosen[-1]) + 1, axis=i)
    return jax.numpy.take(x, chosen, axis=i, unique_indices=True)


def _where_left(chosen: Sequence[int], kept: Bool[np.ndarray, "_"]) -> np.ndarray:
    """Where the chosen positions are, those that stay, among all that stay."""
    ranks = np.cumsum(kept) - 1
    wanted = np.asarray(chosen, int)
    return ranks[wanted[kept[wanted]]]


def _shaped(name: str) -> Resized:
    """An equation that holds the shape of its result."""

    def rule(equation: Any, operands: Any, before: Any, after: Any) -> Sequence[Any]:
        del before
        return bound(equation, operands, equation.params | {name: sizes(after[0])})

    return rule


def _iota(equation: Any, operands: Any, before: Any, after: Any) -> Sequence[Any]:
    del before
    (whole,) = bound(equation, operands)
    return [taken(whole, after[0])]


def _slice(equation: Any, operands: Any, before: Any, after: Any) -> Sequence[Any]:
    del after
    (x,) = operands
    for i, chosen in enumerate(positions(equation)):
        x = _along(x, i, _where_left(chosen, before[0][i]))
    return [x]


def _split(equation: Any, operands: Any, before: Any, after: Any) -> Sequence[Any]:
    del after
    (x,), i = operands, equation.params["axis"]
    found = [_along(x, i, _where_left(chosen, before[0][i])) for chosen in parts(equation)]
    if equation.primitive.name == "split":
        return found
    return [jax.lax.squeeze(part, [i]) for part in found]


def _looked_up(equation: Any, operands: Any, before: Any, after: Any) -> Sequence[Any]:
    """Slices of which some axes are whole."""
    del after
    shape, left = equation.invars[0].aval.shape, sizes(before[0])
    now = equation.params["slice_sizes"]
    new = tuple(
        n if size == whole else size for size, whole, n in zip(now, shape, left, strict=True)
    )
    return bound(equation, operands, equation.params | {"slice_sizes": new})


def _convolution(equation: Any, operands: Any, before: Any, after: Any) -> Sequence[Any]:
    """As many groups as its channels still make."""
    del after
    numbers = equation.params["dimension_numbers"]
    channels = sizes(before[0])[numbers.lhs_spec[1]]
    groups = channels // sizes(before[1])[numbers.rhs_spec[1]]
    return bound(equation, operands, equation.params | {"feature_group_count": groups})


_RULES: Mapping[str, Resized] = {
    "reshape": _shaped("new_sizes"),
    "broadcast_in_dim": _shaped("shape"),
    "iota": _iota,
    "slice": _slice,
    "split": _split,
    "unstack": _split,
    "gather": _looked_up,
    "dynamic_slice": _looked_up,
    "conv_general_dilated": _convolution,
}
