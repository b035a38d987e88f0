"""Masks kept as bits: one bit a weight, with the rank of the leaf, so it shards as the leaf does.

Bit `b` of packed row `r` is row `8r + b` of the packed axis: a shard of whole bytes packs alone.
"""

import math
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int8, UInt8

Packed: TypeAlias = UInt8[Array, "..."] | Int8[Array, "..."]
Storage: TypeAlias = Literal["bits", "int8"]


def pack(mask: Bool[Array, "*shape"], *, storage: Storage = "bits") -> Packed:
    """Stores a mask in uint8, eight entries a byte, or as plain int8.

    Bits are packed along the axis that wastes least, rather a middle axis than the last one.

    Raises:
        ValueError: If there is no such storage.
    """
    if storage not in get_args(Storage):
        raise ValueError(f"masks are stored as {get_args(Storage)}, not as {storage!r}.")
    if storage == "int8" or mask.ndim == 0:
        return mask.astype(jnp.int8)
    axis = packed_axis(mask.shape)
    if mask.shape[axis] // _shards(mask, axis) % 8:
        mask = _whole_along(mask, axis)  # else a byte would span two shards
    fill = [(0, -mask.shape[axis] % 8 if i == axis else 0) for i in range(mask.ndim)]
    bits = _split(jnp.pad(mask, fill).astype(jnp.uint8), axis)
    return jnp.sum(bits << _places(bits.ndim, axis + 1), axis=axis + 1, dtype=jnp.uint8)


def unpack(packed: Packed, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """The mask of `shape` that was packed, in either storage."""
    if packed.dtype == jnp.int8:
        return packed != 0
    axis = packed_axis(shape)
    bytes_ = lax.expand_dims(packed, [axis + 1])
    bits = (bytes_ >> _places(bytes_.ndim, axis + 1)) & jnp.uint8(1)
    rows = bits.reshape(*shape[:axis], -1, *shape[axis + 1 :])
    return lax.slice_in_dim(rows, 0, shape[axis], axis=axis) != 0


def packed_axis(shape: tuple[int, ...]) -> int:
    """The axis whose packing takes the fewest bytes; of equals the last but one, then before it.

    Not the last one, if another does as well: along it unpacking is not vectorized.
    """
    rank = len(shape)
    order = [*range(rank - 2, -1, -1), rank - 1]
    return min(
        order, key=lambda axis: math.prod(shape) // max(shape[axis], 1) * -(-shape[axis] // 8)
    )


def _shards(mask: Bool[Array, "..."], axis: int) -> int:
    """Into how many parts the type of an Explicit mesh splits an axis; 1 elsewhere."""
    sharding = jax.typeof(mask).sharding
    names = sharding.spec[axis] or ()
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names)


def _split(rows: UInt8[Array, "..."], axis: int) -> UInt8[Array, "..."]:
    shape = rows.shape
    return rows.reshape(*shape[:axis], shape[axis] // 8, 8, *shape[axis + 1 :])


def _places(rank: int, axis: int) -> UInt8[Array, "..."]:
    return lax.expand_dims(jnp.arange(8, dtype=jnp.uint8), [i for i in range(rank) if i != axis])


def _whole_along(mask: Bool[Array, "*shape"], axis: int) -> Bool[Array, "*shape"]:
    """Gathers an axis that explicit mesh axes shard; automatic ones are the compiler's."""
    sharding = jax.typeof(mask).sharding
    if sharding.spec[axis] is None:
        return mask
    spec = [None if i == axis else names for i, names in enumerate(sharding.spec)]
    return jax.sharding.reshard(mask, NamedSharding(sharding.mesh, PartitionSpec(*spec)))
