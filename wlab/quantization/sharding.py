"""Where reshaped arrays lie on an Explicit mesh."""

import math

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


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
