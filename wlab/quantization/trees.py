"""Quantize the leaves of a tree that rules choose, and make it plain again."""

from typing import Any

import jax

from wlab import tree
from wlab.quantization.arrays import dequantize, quantize
from wlab.quantization.formats import Format, check_leaf, refuse_no_format
from wlab.quantization.qtensor import check, is_qtensor
from wlab.quantization.ranges import RangeFn, absmax
from wlab.tree import Rules
from wlab.tree.paths import Tree

# Compiled, a leaf is written in one pass: quicker, and without arrays in between.
_quantize = jax.jit(quantize, static_argnames=("format", "range_fn"))
_dequantize = jax.jit(dequantize)


def quantize_tree(
    params: Tree,
    rules: Rules[Format | None],
    *,
    range_fn: RangeFn = absmax,
    key: jax.Array | None = None,
) -> Tree:
    """Puts a QTensor in the place of each leaf whose rule names a format.

    Args:
        params: Any pytree. Under `jax.eval_shape` this is a dry run: count the bytes first.
        rules: `(regex, format)`; None leaves a leaf as it is.
        range_fn: See `quantize`.
        key: Rounds by chance; each leaf draws with the key of its path.

    Raises:
        TypeError, ValueError: If a leaf cannot take its format, naming the leaf; see `resolve`.
    """
    leaves = tree.leaves(params)
    new = {
        path: _quantize(leaves[path], format, range_fn=range_fn, key=leaf_key(key, path))
        for path, format in chosen_formats(rules, params).items()
    }
    return tree.replace(params, new)


def dequantize_tree(quantized: Tree) -> Tree:
    """Puts the array back in the place of each QTensor.

    Raises:
        ValueError: If a QTensor is not what its format says, naming its path and child.
    """

    def plain(key_path: tuple[Any, ...], leaf: Any) -> Any:
        if not is_qtensor(leaf):
            return leaf
        check(leaf, tree.path_name(key_path))
        return _dequantize(leaf)

    return jax.tree_util.tree_map_with_path(plain, quantized, is_leaf=is_qtensor)


def leaf_key(key: jax.Array | None, path: str) -> jax.Array | None:
    """The key that the leaf at `path` is rounded with, if it is by chance."""
    return None if key is None else tree.path_key(key, path)


def chosen_formats(
    rules: Rules[Any], params: Tree, *, default: Format | None = None
) -> dict[str, Format]:
    """The format of each leaf that has one; True stands for `default`.

    Raises:
        TypeError, ValueError: As `quantize_tree`, and if a rule's value is no format.
    """
    leaves = tree.leaves(params)
    chosen = {}
    for path, value in tree.resolve(rules, params, purpose="quantization").items():
        if value is None or value is False:
            continue
        format: Any = default if value is True and default is not None else value
        refuse_no_format(format, f"quantization: the rule for {path!r}")
        check_leaf(leaves[path], format, repr(path))
        chosen[path] = format
    return chosen
