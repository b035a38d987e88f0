"""A fresh tree by rules. A leaf's values depend on the key and its own path, on nothing else."""

from typing import Any

import jax
from jax.core import Tracer

from wlab import tree
from wlab.initializers.initializer import Initializer, Key
from wlab.tree.paths import Tree


def reinit(params: Tree, rules: tree.Rules[Initializer | None], key: Key) -> Tree:
    """Draws every leaf anew by its rule's initializer; None leaves a leaf as it is.

    Each leaf keeps its shape, dtype and sharding. Leaves may be shapes, so
    `reinit(jax.eval_shape(init, ...), rules, key)` builds a tree from nothing.

    Adding, removing or reordering leaves moves no other leaf's values.

    Raises:
        ValueError: If a leaf has no rule, a rule no leaf, or an initializer refuses a leaf.
    """
    found = tree.leaves(params)
    chosen = tree.resolve(rules, params, purpose="reinit")
    new = {
        path: _fresh(path, found[path], initializer, key)
        for path, initializer in chosen.items()
        if initializer is not None
    }
    return tree.replace(params, new)


def _fresh(path: str, leaf: Any, initializer: Initializer, key: Key) -> jax.Array:
    try:
        new = initializer(tree.path_key(key, path), leaf.shape, leaf.dtype)
    except ValueError as error:
        raise ValueError(f"reinit: leaf {path!r}: {error}") from error
    sharding = _sharding(leaf)
    return new if sharding is None else jax.device_put(new, sharding)


def _sharding(leaf: Any) -> Any:
    """Where the leaf was put on purpose; None if it was not, or if the compiler decides."""
    if isinstance(leaf, Tracer):
        sharding = jax.typeof(leaf).sharding
        return sharding if any(sharding.spec) else None
    is_anywhere = isinstance(leaf, jax.Array) and not leaf.committed
    return None if is_anywhere else getattr(leaf, "sharding", None)
