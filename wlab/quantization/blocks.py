"""Arrays cut into the blocks that share a scale, and put together again.

Grouping splits one axis in two, (n) -> (groups, group_size); a short last group is filled up
with zeros for the computation only. Other granularities need no cutting.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from wlab.quantization.formats import Format


def split(x: Shaped[Array, "..."], format: Format) -> Shaped[Array, "..."]:
    """The blocks of an array: the group axis becomes (groups, group_size)."""
    if format.group_size is None:
        return x
    (axis,) = format.axes(x.ndim)
    n = x.shape[axis]
    size = max(1, min(format.group_size, n))
    groups = -(-n // size)
    x = spread(x, axis, groups if groups * size == n else 1)
    if groups * size > n:
        x = jnp.pad(x, [(0, groups * size - n if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], groups, size, *x.shape[axis + 1 :])


def join(
    blocks: Shaped[Array, "..."], like: Shaped[Array, "..."], format: Format
) -> Shaped[Array, "..."]:
    """Undoes `split`: the shape and the sharding of `like`."""
    if format.group_size is not None:
        (axis,) = format.axes(like.ndim)
        groups, size = blocks.shape[axis : axis + 2]
        blocks = blocks.reshape(*like.shape[:axis], groups * size, *like.shape[axis + 1 :])
        blocks = jax.lax.slice_in_dim(blocks, 0, like.shape[axis], axis=axis)
    return resharded(blocks, like)


def reduced(format: Format, ndim: int) -> tuple[int, ...]:
    """The axes of the blocks, of an array of rank `ndim`, that one scale spans."""
    axes = format.axes(ndim)
    return axes if format.group_size is None else (axes[0] + 1,)


def spread(x: Shaped[Array, "..."], axis: int, parts: int) -> Shaped[Array, "..."]:
    """Sees to it that `axis` can be cut into `parts`, whichever way an Explicit mesh shards it.

    If the cuts fall inside shards, another axis is sharded instead (an all-to-all), or, if
    none can be, this one is gathered.
    """
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis]
    if names is None or parts % _shards(sharding, names) == 0:
        return x
    spec = [None if i == axis else at for i, at in enumerate(sharding.spec)]
    for other, at in enumerate(spec):
        free = other != axis and at is None
        if free and x.shape[other] % _shards(sharding, names) == 0:
            spec[other] = names
            break
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec)))


def resharded(x: Shaped[Array, "..."], like: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` on an Explicit mesh where `like` is."""
    wanted = jax.typeof(like).sharding
    return x if jax.typeof(x).sharding.spec == wanted.spec else jax.sharding.reshard(x, wanted)


def _shards(sharding: NamedSharding, names: str | tuple[str, ...]) -> int:
    names = (names,) if isinstance(names, str) else names
    return math.prod(sharding.mesh.shape[name] for name in names)
