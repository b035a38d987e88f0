"""Values within `shard_map`: which differ between devices, and what all devices have together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab.graph.compat import varying

Names = frozenset[str]  # of axes of a mesh


def varied(x: Array, like: Any) -> Array:
    """The value, of a type that differs between devices where that of another one does."""
    missing = varying(like) - varying(jax.typeof(x))
    return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x


def together(found: Any, axes: Names, combine: Callable[[Any, Any], Any]) -> Any:
    """What all devices along mesh axes have, as one: each gets it.

    Args:
        found: Of one device, a tree.
        axes: Of the mesh.
        combine: Of the trees of two devices.
    """
    if not axes:
        return found
    names = tuple(sorted(axes))
    every = jax.tree.map(lambda x: jax.lax.all_gather(x, names), found)
    first, others = (jax.tree.map(lambda x, of=of: x[of], every) for of in (0, slice(1, None)))
    return jax.lax.scan(lambda one, other: (combine(one, other), None), first, others)[0]


def added(found: Any, axes: Names) -> Any:
    """Σ over all devices along mesh axes: each gets it."""
    names = tuple(sorted(axes))
    return jax.tree.map(lambda x: jax.lax.psum(x, names), found) if axes else found


def of_one(found: Any, axes: Names) -> Any:
    """What the first device along mesh axes has: each gets it."""
    if not axes:
        return found
    names = tuple(sorted(axes))
    is_first = jax.lax.axis_index(names) == 0
    return jax.tree.map(lambda x: jax.lax.psum(jnp.where(is_first, x, 0), names), found)
