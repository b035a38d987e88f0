"""Axes that explicit mesh axes split: groups along them must be whole before they are looked at.

Automatic mesh axes are the compiler's: nothing here touches them.
"""

import math
from collections.abc import Iterable

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


def gathered(x: Shaped[Array, "*shape"], axes: Iterable[int]) -> Shaped[Array, "*shape"]:
    """Gathers axes that explicit mesh axes split."""
    sharding, whole = jax.typeof(x).sharding, {axis % x.ndim for axis in axes}
    spec = [None if i in whole else names for i, names in enumerate(sharding.spec)]
    if spec == [*sharding.spec]:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec)))


def in_whole_groups(x: Shaped[Array, "*shape"], axis: int, group: int) -> Shaped[Array, "*shape"]:
    """Gathers an axis if a shard of it does not hold whole groups of neighbours."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis]
    split = names if isinstance(names, tuple) else (names,) if names else ()
    shards = math.prod(sharding.mesh.shape[name] for name in split)
    is_whole = x.shape[axis] % group == 0 and x.shape[axis] // shards % group == 0
    return x if is_whole else gathered(x, [axis])


def split_axis(x: Shaped[Array, "*shape"], axis: int, group: int) -> Array:
    """Makes an axis of neighbours two: groups, and neighbours in a group."""
    whole, axis = in_whole_groups(x, axis, group), axis % x.ndim
    return whole.reshape(*x.shape[:axis], x.shape[axis] // group, group, *x.shape[axis + 1 :])


def joined_axes(x: Array, axis: int) -> Array:
    """Makes an axis and the next one: the inverse of `split_axis`."""
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def placed_as(x: Shaped[Array, "*shape"], other: Shaped[Array, "*shape"]) -> Array:
    """Splits an array as another one of its shape is split."""
    sharding = jax.typeof(other).sharding
    if sharding.spec == jax.typeof(x).sharding.spec:
        return x
    return jax.sharding.reshard(x, sharding)
