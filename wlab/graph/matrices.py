"""A leaf as the matrix that its use makes of it: inputs by outputs, and back."""

from math import prod

import jax
from jaxtyping import Array, Shaped

from wlab.graph.operands import place
from wlab.graph.use import Use

Matrix = Shaped[Array, "*batch inputs outputs"]


def to_matrix(use: Use, leaf: Array) -> Matrix:
    """The leaf with a row for each input and a column for each output.

    Axes of loops, of batches and groups of channels go first. Inputs and outputs are in the order
    of the leaf's axes: rows go with the columns of what `capture` measures.

    Raises:
        ValueError: If the use is of a part of the leaf, of something computed from it, an axis of
            it is both input and output, or groups of channels are not in its own order.
    """
    refuse_parts(use)
    moved = leaf.transpose(_order(use)).reshape(*_first(use), use.fan_in, -1)
    if use.groups == 1:
        return moved
    *first, rows, columns = moved.shape
    split = moved.reshape(*first, rows, use.groups, columns // use.groups)
    return jax.numpy.moveaxis(split, -2, -3)


def from_matrix(use: Use, matrix: Matrix) -> Array:
    """The leaf whose matrix that is: the inverse of `to_matrix`."""
    refuse_parts(use)
    if use.groups > 1:
        matrix = jax.numpy.moveaxis(matrix, -3, -2)
    order, shape = _order(use), use.view.shape
    back = sorted(range(len(order)), key=lambda i: order[i])
    return matrix.reshape([shape[i] for i in order]).transpose(back)


def refuse_parts(use: Use) -> None:
    """Refuses a use that makes no matrix of its leaf.

    Raises:
        ValueError: As `to_matrix`.
    """
    shape = use.view.shape
    roles = _order(use)
    once = len(roles) == len(set(roles)) and prod(shape[i] for i in roles) == prod(shape)
    if not (once and len(roles) == len(shape) and use.view.is_whole and use.view.exact):
        raise ValueError(
            f"{use.path!r} of shape {shape} is no matrix at its {use.primitive}: a part of it is "
            "used there, something computed from it, or one of its axes is input and output."
        )
    if use.groups > 1 and use.view.parts_of(use.out_axes) > 1:
        raise ValueError(
            f"{use.path!r} of shape {shape} is no matrix at its {use.primitive}: `shard_map` cuts "
            "its groups of channels over devices; read the function without."
        )
    outputs = [atom for axis in use.free for atom in axis]
    in_order = outputs == sorted(outputs, key=place) and all(a.stride > 0 for a in outputs)
    if use.groups > 1 and not in_order:
        raise ValueError(
            f"{use.path!r} of shape {shape} is no matrix at its {use.primitive}: its groups of "
            "channels are in another order than its own axes."
        )


def _order(use: Use) -> list[int]:
    return [*use.view.stack, *use.batch_axes, *use.in_axes, *use.out_axes]


def _first(use: Use) -> list[int]:
    return [use.view.shape[i] for i in (*use.view.stack, *use.batch_axes)]
