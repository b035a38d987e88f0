"""Trees with sparse arrays in them: each leaf in the form that takes the fewest bytes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wlab import tree
from wlab.pruning.forms import NM, Bitmask, Form, packed_bytes
from wlab.pruning.packed import Sparse, check_sparse, compress, decompress
from wlab.tree.paths import Tree

FORMS: tuple[Form, ...] = (NM(2, 4), Bitmask())


def compress_tree(params: Tree, *, forms: Sequence[Form] = FORMS) -> Tree:
    """Puts a Sparse in the place of each leaf that takes fewer bytes so; others stay dense.

    Args:
        params: Any tree.
        forms: Those to choose from; of equals, the first.
    """
    return jax.tree.map(lambda leaf: smallest(leaf, forms=forms), params)


def decompress_tree(packed: Tree) -> Tree:
    """Puts the array back in the place of each Sparse.

    Raises:
        ValueError: If a Sparse is not what its form says, naming its path.
    """

    def plain(key_path: tuple[Any, ...], leaf: Any) -> Any:
        if not is_sparse(leaf):
            return leaf
        check_sparse(leaf, tree.path_name(key_path))
        return decompress(leaf)

    return jax.tree_util.tree_map_with_path(plain, packed, is_leaf=is_sparse)


def is_sparse(x: Any) -> bool:
    """Whether a node of a tree is a Sparse; for `is_leaf=`."""
    return isinstance(x, Sparse)


def smallest(leaf: Any, *, forms: Sequence[Form] = FORMS) -> Any:
    """The leaf in the form with the fewest bytes, or as it is if none saves any."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    sizes = {form: packed_bytes(leaf, form) for form in forms}
    fitting = {form: size for form, size in sizes.items() if size is not None}
    best = min(fitting, key=fitting.__getitem__, default=None)
    if best is None or fitting[best] >= tree.leaf_bytes(leaf):
        return leaf
    return compress(leaf, best)
