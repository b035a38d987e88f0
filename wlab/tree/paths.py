"""Every leaf has one path, `block_0/attn/q/kernel`, whatever the tree is made of.

Dicts, sequences, dataclasses, flax nnx states, equinox modules and haiku dicts all spell
it alike. A leaf that was taken out leaves None behind, so its path can be filled again.
"""

import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Tree: TypeAlias = Any
Leaf: TypeAlias = Any

# An nnx variable is a node with a single child of this name; users think of it as the leaf.
_NNX_VALUE = jax.tree_util.GetAttrKey("value")
EXTRA = "+/"  # the prefix of extra trainables, see `wlab.Stored`


def path_name(key_path: tuple[Any, ...]) -> str:
    """Spells a JAX key path as `a/b/0/kernel`."""
    if key_path and key_path[-1] == _NNX_VALUE:
        key_path = key_path[:-1]
    names = (jax.tree_util.keystr((key,), simple=True) for key in key_path)
    return "/".join(name for name in names if name)


def leaves(tree: Tree) -> dict[str, Leaf]:
    """The leaves by path, in tree order.

    Raises:
        ValueError: If two leaves share a path (a key that itself contains a slash).
    """
    return _by_path(jax.tree_util.tree_flatten_with_path(tree)[0])


def paths(tree: Tree) -> list[str]:
    """The paths of all leaves, in tree order."""
    return list(leaves(tree))


def arrays(tree: Tree) -> dict[str, Leaf]:
    """The leaves by path that are arrays, shapes or numbers.

    Equinox modules have functions among their leaves, too.
    """
    return {path: leaf for path, leaf in leaves(tree).items() if is_array(leaf)}


def param_leaves(tree: Tree) -> dict[str, Leaf]:
    """As `arrays`, without the extra trainables of a `wlab.Stored`."""
    return {path: leaf for path, leaf in arrays(tree).items() if not path.startswith(EXTRA)}


def is_array(leaf: Leaf) -> bool:
    """Whether a leaf is an array, a shape or a number."""
    is_number = isinstance(leaf, bool | int | float | complex)
    return is_number or (hasattr(leaf, "dtype") and hasattr(leaf, "shape"))


def map_leaves(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Maps `f(path, leaf, *rest_leaves)` over a tree and trees of the same structure."""
    return jax.tree_util.tree_map_with_path(
        lambda key_path, *at: f(path_name(key_path), *at), tree, *rest
    )


def replace(tree: Tree, new: Mapping[str, Leaf]) -> Tree:
    """Puts the leaves of `new` at their paths; None at a path takes the leaf out.

    Raises:
        KeyError: If a path of `new` is neither a leaf of `tree` nor a hole left by one.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    named = _by_path(flat)
    for path in new:
        if path not in named:
            raise KeyError(f"No leaf at {path!r}; the tree has {_some(named)}.")
    return jax.tree.unflatten(structure, [new.get(p, leaf) for p, leaf in named.items()])


def suffixes(path: str) -> Iterator[str]:
    """`a/b`, then `b`, then the empty path of a tree that is a single leaf."""
    names = path.split("/")
    return ("/".join(names[i:]) for i in range(len(names) + 1))


def owner(path: str, paths: Container[str]) -> str | None:
    """The longest of `paths` that `path` ends with: the weight a moment or a mask belongs to."""
    return next((suffix for suffix in suffixes(path) if suffix in paths), None)


def path_key(key: Any, path: str) -> Any:
    """The key of the leaf at `path`: the CRC-32 of the path folded into `key`."""
    return jax.random.fold_in(key, jnp.uint32(zlib.crc32(path.encode())))


def _by_path(flat: list[tuple[Any, Leaf]]) -> dict[str, Leaf]:
    named: dict[str, Leaf] = {}
    for key_path, leaf in flat:
        path = path_name(key_path)
        if path in named:
            raise ValueError(f"Two leaves have the path {path!r}: rename one of their keys.")
        named[path] = leaf
    return named


def _some(named: Mapping[str, Leaf], limit: int = 8) -> str:
    shown = ", ".join(repr(path) for path in list(named)[:limit])
    return shown + (f", … ({len(named)} in all)" if len(named) > limit else "")
