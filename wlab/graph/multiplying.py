"""A product as one of matrices: rows by inputs, times inputs by outputs, gives rows by outputs.

Inputs and outputs are in the order of the leaf's own axes, whatever was transposed on the way.
"""

from math import prod
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from wlab.graph.axes import Axis, length, regrouped
from wlab.graph.operands import from_leaf_order, in_leaf_order, sizes_of
from wlab.graph.use import Use


def matrix_of(use: Use, equation: Any, leaf: Array) -> Shaped[Array, "*batch inputs outputs"]:
    """The leaf, as it is in the equation, in the columns of `rows_of` and the leaf's own order."""
    if use.primitive == "conv_general_dilated":
        return _kernel_matrix(use, equation, leaf)
    contract, batch = (pair[use.operand] for pair in equation.params["dimension_numbers"])
    free = [i for i in range(leaf.ndim) if i not in {*contract, *batch}]
    x = leaf.transpose(*batch, *contract, *free)
    x = x.reshape(prod(leaf.shape[i] for i in batch), _inputs(use), -1)
    x = in_leaf_order(x, use.free)
    x = in_leaf_order(x.transpose(0, 2, 1), use.contract).transpose(2, 1, 0)
    x = in_leaf_order(x, use.batch).transpose(2, 0, 1)
    return x.reshape(*sizes_of(use.batch), *x.shape[1:])


def result_of(use: Use, equation: Any, x: Shaped[Array, "*batch rows outputs"]) -> Array:
    """The result of the equation, from rows by outputs.

    Raises:
        ValueError: If it has another shape.
    """
    expected = result_shape(use, equation)
    if jnp.shape(x) != expected:
        raise ValueError(
            f"{use.path!r}: what replaces its {use.primitive} gave a matrix of shape "
            f"{jnp.shape(x)}; rows by outputs are {expected}."
        )
    if use.primitive == "conv_general_dilated":
        return _pictures(use, equation, x)
    batch, rows, outputs = _dot_shapes(use, equation)
    x = x.reshape(prod(batch), *x.shape[-2:])
    x = from_leaf_order(x, use.free)
    x = from_leaf_order(x.transpose(1, 2, 0), use.batch).transpose(2, 0, 1)
    x = x.reshape(*batch, *rows, *outputs)
    if use.operand == 1:
        return x
    first, middle = len(batch), len(batch) + len(rows)
    return x.transpose(*range(first), *range(middle, x.ndim), *range(first, middle))


def result_shape(use: Use, equation: Any) -> tuple[int, ...]:
    """Of the result, as rows by outputs."""
    if use.primitive == "conv_general_dilated":
        out = equation.outvars[0].aval.shape
        channels = out[equation.params["dimension_numbers"].out_spec[1]]
        groups = (use.groups,) if use.groups > 1 else ()
        return (*groups, prod(out) // channels, channels // use.groups)
    _, rows, outputs = _dot_shapes(use, equation)
    return (*sizes_of(use.batch), prod(rows), prod(outputs))


def _dot_shapes(use: Use, equation: Any) -> tuple[list[int], list[int], list[int]]:
    """The sizes of the axes of batches, of the other operand's own, and of the leaf's own."""
    found = []
    for i in (1 - use.operand, use.operand):
        contract, batch = (pair[i] for pair in equation.params["dimension_numbers"])
        shape = equation.invars[i].aval.shape
        found.append([n for at, n in enumerate(shape) if at not in {*contract, *batch}])
    return [shape[i] for i in batch], *found


def _kernel_matrix(use: Use, equation: Any, leaf: Array) -> Array:
    out, *into = equation.params["dimension_numbers"].rhs_spec
    x = leaf.transpose(*into, out).reshape(_inputs(use), use.groups, -1).transpose(1, 0, 2)
    x = in_leaf_order(x, _outputs(use))
    x = in_leaf_order(x.transpose(0, 2, 1), use.contract).transpose(0, 2, 1)
    return x if use.groups > 1 else x[0]


def _pictures(use: Use, equation: Any, x: Array) -> Array:
    batch, channels, *space = equation.params["dimension_numbers"].out_spec
    order = [batch, *space, channels]
    shape = equation.outvars[0].aval.shape
    x = from_leaf_order(x, _outputs(use)).reshape(use.groups, x.shape[-2], -1)
    x = x.transpose(1, 0, 2).reshape([shape[i] for i in order])
    return x.transpose(sorted(range(len(order)), key=lambda i: order[i]))


def _inputs(use: Use) -> int:
    """How many products are summed here; where a leaf is cut over devices, on one of them."""
    return prod(length(axis) for axis in use.contract)


def _outputs(use: Use) -> tuple[Axis, ...]:
    """The axis of a kernel's outputs, of one group.

    Raises:
        ValueError: If the groups are no factor of it.
    """
    (out,) = use.free
    split = regrouped((out,), (use.groups, length(out) // use.groups))
    if split is None:
        raise ValueError(
            f"{use.path!r} is no matrix at its convolution: its {use.groups} groups of channels "
            "do not lie evenly in it; use `apply`."
        )
    return split[1:]
