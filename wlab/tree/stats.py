"""Counts, bytes and norms of a tree. Leaves may be shapes where no values are needed."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.tree.paths import Tree, arrays, is_array


def count(tree: Tree) -> int:
    """The number of weights; an array that stands at several paths counts once."""
    return sum(math.prod(leaf.shape) for leaf in _unique(tree))


def aliases(tree: Tree) -> list[tuple[str, ...]]:
    """Groups of paths that hold the very same array, each group in tree order."""
    groups: dict[tuple[str, int], list[str]] = {}
    for index, (path, leaf) in enumerate(arrays(tree).items()):
        groups.setdefault(_identity(leaf, index), []).append(path)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def nbytes(tree: Tree) -> int:
    """True bytes in memory, an int4 being half a byte; aliased arrays count once."""
    return sum(leaf_bytes(leaf) for leaf in _unique(tree))


def leaf_bytes(leaf: Any) -> int:
    """True bytes of one array or shape, rounded up."""
    return -(-math.prod(leaf.shape) * bits(leaf.dtype) // 8)


def bits(dtype: Any) -> int:
    """Bits of one element in memory: 4 for int4, 8 for bool."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.finfo(dtype).bits
    return 8 * dtype.itemsize


def nonzero(tree: Tree) -> dict[str, int]:
    """The number of non-zero entries of each leaf, counted in integers."""
    counts = {path: jnp.count_nonzero(leaf) for path, leaf in arrays(tree).items()}
    return {path: int(found) for path, found in counts.items()}


def density(tree: Tree) -> float:
    """The fraction of all entries that is not zero, in [0, 1]."""
    size = sum(jnp.size(leaf) for leaf in arrays(tree).values())
    return sum(nonzero(tree).values()) / max(size, 1)


def norms(tree: Tree) -> dict[str, Float[Array, ""]]:
    """The Euclidean norm of each leaf, reduced in float32."""
    return {path: jnp.sqrt(_square_sum(leaf)) for path, leaf in arrays(tree).items()}


def global_norm(tree: Tree) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, reduced in float32."""
    return jnp.sqrt(sum(map(_square_sum, jax.tree.leaves(tree)), jnp.float32(0)))


def _square_sum(leaf: Any) -> Float[Array, ""]:
    return jnp.sum(jnp.square(jnp.abs(leaf).astype(jnp.float32)))


def _unique(tree: Tree) -> list[Any]:
    found = filter(is_array, jax.tree.leaves(tree))
    return list({_identity(leaf, i): leaf for i, leaf in enumerate(found)}.values())


def _identity(leaf: Any, index: int) -> tuple[str, int]:
    """Shapes are values, and one may stand for many leaves: only arrays can be aliases."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return "shape", index
    return "array", id(leaf)
