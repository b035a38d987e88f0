"""Arrays cut into the blocks that share a scale, and put together again.

Grouping splits an axis in two, (n) -> (groups, group_size); a short last group is filled up with
zeros for the computation only. Other granularities need no cutting.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from wlab.quantization.formats import Format
from wlab.quantization.sharding import resharded, spread


def split(x: Shaped[Array, "..."], format: Format) -> Shaped[Array, "..."]:
    """The blocks of an array: each grouped axis becomes (groups, group_size)."""
    for axis, size in reversed(format.groups(x.shape)):
        n = x.shape[axis]
        groups = -(-n // size)
        x = spread(x, axis, groups if groups * size == n else 1)
        if groups * size > n:
            x = jnp.pad(x, [(0, groups * size - n if i == axis else 0) for i in range(x.ndim)])
        x = x.reshape(*x.shape[:axis], groups, size, *x.shape[axis + 1 :])
    return x


def join(
    blocks: Shaped[Array, "..."], like: Shaped[Array, "..."], format: Format
) -> Shaped[Array, "..."]:
    """Undoes `split`: the shape and the sharding of `like`."""
    for axis, _ in format.groups(like.shape):
        groups, size = blocks.shape[axis : axis + 2]
        blocks = blocks.reshape(*blocks.shape[:axis], groups * size, *blocks.shape[axis + 2 :])
        blocks = jax.lax.slice_in_dim(blocks, 0, like.shape[axis], axis=axis)
    return resharded(blocks, like)


def reduced(format: Format, ndim: int) -> tuple[int, ...]:
    """The axes of the blocks, of an array of rank `ndim`, that one scale spans."""
    axes = format.axes(ndim)
    return axes if format.group_size is None else tuple(a + i + 1 for i, a in enumerate(axes))
