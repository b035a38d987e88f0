"""Packed masks in the state of a transform whose zeros are stored."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.bits import Packed, Storage, pack, unpack
from wlab.transform import Params

PackedMasks = dict[str, Packed]  # by the path of the leaf


def packed(masks: Mapping[str, Bool[Array, "..."]], storage: Storage) -> PackedMasks:
    """Each mask, packed."""
    return {path: pack(mask, storage=storage) for path, mask in masks.items()}


def unpacked(masks: PackedMasks, leaves: Mapping[str, Array]) -> dict[str, Bool[Array, "..."]]:
    """Each mask, in the shape of its leaf."""
    return {path: unpack(bits, leaves[path].shape) for path, bits in masks.items()}


def seen(stored: Params, masks: PackedMasks) -> Params:
    """The weights as they are, for their zeros are stored; only live ones get a gradient."""
    return _map(stored, masks, lambda m, p: jnp.where(m, p, jax.lax.stop_gradient(p)))


def zeroed(stored: Params, masks: PackedMasks) -> Params:
    """Zeros where a weight is not live."""
    return _map(stored, masks, lambda m, p: jnp.where(m, p, 0))


def through(stored: Params, masks: PackedMasks) -> Params:
    """Zeros where a weight is not live; all of them get the gradient of what is seen."""

    return _map(stored, masks, _hidden)


@jax.custom_jvp
def _hidden(mask: Array, leaf: Array) -> Array:
    return jnp.where(mask, leaf, 0)


@_hidden.defjvp
def _hidden_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return _hidden(*primals), tangents[1]


def _map(stored: Params, masks: PackedMasks, f: Callable[[Array, Array], Array]) -> Params:
    def at(path: str, leaf: Array) -> Array:
        bits = masks.get(path)
        return leaf if bits is None else f(unpack(bits, leaf.shape), leaf)

    return tree.map_leaves(at, stored)
