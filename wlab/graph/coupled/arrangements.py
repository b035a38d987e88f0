"""Equations that arrange entries, and what they do to positions."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import numpy as np

from wlab.graph.coupled.ledger import Axis, Ledger
from wlab.graph.coupled.value import Value

_ALONE = "a position of it is taken by its number"
_LOOKED_UP = "positions of it are looked up"


def reshape(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value] | None:
    """Factors are multiplied and cut; an axis is zero where all of its factors are."""
    (value,) = values
    axes = ledger.regrouped(value.axes, equation.params["new_sizes"])
    if axes is None:
        return None
    ends = list(accumulate(equation.invars[0].aval.shape, mul))
    done, zero = 1, set()
    for i, axis in enumerate(axes):
        origins = set()
        for factor in axis:
            done *= len(factor)
            origins.add(bisect_left(ends, done))
        if axis and origins <= value.zero:
            zero.add(i)
    return [replace(value, axes=tuple(axes), zero=frozenset(zero))]


def transpose(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """The same axes in another order."""
    del ledger
    return [values[0].along(*equation.params["permutation"])]


def squeeze(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """Without some axes of size 1."""
    del ledger
    gone = equation.params["dimensions"]
    (value,) = values
    return [value.along(*(i for i in range(len(value.axes)) if i not in gone))]


def broadcast(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """New axes have positions of their own."""
    value, places = values[0], [int(i) for i in equation.params["broadcast_dimensions"]]
    axes = [ledger.fresh(size) for size in equation.params["shape"]]
    for axis, i in zip(value.axes, places, strict=True):
        axes[i] = axis or axes[i]
    zero = frozenset(places[i] for i in value.zero)
    return [Value(tuple(axes), zero, value.fill)]


def reverse(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """The same positions, read backwards."""
    (value,) = values
    for i in equation.params["dimensions"]:
        backwards = range(equation.invars[0].aval.shape[i])[::-1]
        value = value.with_axis(i, ledger.chosen(value.axes[i], backwards, _ALONE))
    return [value]


def positions(equation: Any) -> list[Sequence[int]]:
    """Which positions of each axis a `slice` takes."""
    params = equation.params
    strides = params["strides"] or [1] * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [range(start, limit, stride) for start, limit, stride in bounds]


def parts(equation: Any) -> list[Sequence[int]]:
    """Which positions of the axis each result of a `split` or `unstack` takes."""
    axis = equation.params["axis"]
    size = equation.invars[0].aval.shape[axis]
    sizes = equation.params.get("sizes", [1] * size)
    return [range(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def cut_out(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """The positions that a `slice` takes."""
    (value,) = values
    for i, taken in enumerate(positions(equation)):
        value = value.with_axis(i, ledger.chosen(value.axes[i], taken, _ALONE))
    return [value]


def split(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """The positions that each part takes."""
    (value,), i = values, equation.params["axis"]
    chosen = [ledger.chosen(value.axes[i], taken, _ALONE) for taken in parts(equation)]
    found = [value.with_axis(i, axis) for axis in chosen]
    if equation.primitive.name == "split":
        return found
    rest = [j for j in range(len(value.axes)) if j != i]
    return [part.along(*rest) for part in found]


def concatenate(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """The positions of one operand after those of another."""
    along = equation.params["dimension"]
    first, *others = values
    for other in others:
        for i, axis in enumerate(other.axes):
            if i != along:
                ledger.unite(first.axes[i], axis)
    joined = np.concatenate([ledger.flat(value.axes[along]) for value in values])
    zero = first.zero.intersection(*(value.zero for value in others))
    return [Value(first.with_axis(along, (joined,)).axes, zero)]


def pad(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """An axis that gets more positions must keep all of its own."""
    value, filling = values
    found: list[Axis] = []
    for axis, (low, high, between), size in zip(
        value.axes,
        equation.params["padding_config"],
        equation.outvars[0].aval.shape,
        strict=True,
    ):
        if (low, high, between) == (0, 0, 0):
            found.append(axis)
            continue
        ledger.freeze(axis, "pad adds positions to it")
        found.append(ledger.fixed(size, "pad adds positions to it"))
    zero = value.zero if filling.fill is not None and bool(filling.fill == 0) else frozenset()
    return [Value(tuple(found), zero)]


def iota(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """Axes of which nothing is known."""
    del values
    return [Value(tuple(ledger.fresh(size) for size in equation.params["shape"]))]


def gather(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value] | None:
    """Chosen positions of some axes must all be there; whole axes go on as they are."""
    (value, indices), params = values, equation.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    shape = equation.invars[0].aval.shape
    batch = numbers.operand_batching_dims
    kept = [i for i in range(len(shape)) if i not in {*numbers.collapsed_slice_dims, *batch}]
    if batch:
        return None
    for i in range(len(shape)):
        if sizes[i] != shape[i]:
            ledger.freeze(value.axes[i], _LOOKED_UP)
    axes, zero = [], set()
    rows = iter(indices.axes[:-1])
    whole = iter(kept)
    for at, size in enumerate(equation.outvars[0].aval.shape):
        if at not in numbers.offset_dims:
            axes.append(next(rows))
            continue
        i = next(whole)
        is_whole = sizes[i] == shape[i]
        axes.append(value.axes[i] if is_whole else ledger.fixed(size, _LOOKED_UP))
        zero |= {at} if is_whole and i in value.zero else set()
    return [Value(tuple(axes), frozenset(zero))]


def dynamic_slice(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """An axis of which a part is taken must stay whole."""
    value = values[0]
    sizes, shape = equation.params["slice_sizes"], equation.invars[0].aval.shape
    for i in range(len(shape)):
        if sizes[i] != shape[i]:
            ledger.freeze(value.axes[i], _LOOKED_UP)
            value = value.with_axis(i, ledger.fixed(sizes[i], _LOOKED_UP))
    return [value]


def dynamic_update_slice(ledger: Ledger, equation: Any, values: Sequence[Value]) -> list[Value]:
    """An axis of which a part is written must stay whole."""
    value, update = values[:2]
    shapes = (atom.aval.shape for atom in equation.invars[:2])
    for i, (size, part) in enumerate(zip(*shapes, strict=True)):
        if size == part:
            ledger.unite(value.axes[i], update.axes[i])
        else:
            ledger.freeze(value.axes[i], "dynamic_update_slice writes positions of it")
            ledger.freeze(update.axes[i], "dynamic_update_slice writes it somewhere")
    return [Value(value.axes, value.zero & update.zero)]
