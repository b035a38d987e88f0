"""A new model begun from an old one, leaf by leaf, with a report of what came from where."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from wlab import tree
from wlab.table import Table
from wlab.transform import Params
from wlab.tree.paths import Tree

POLICIES = ("take", "init", "zero", "slice")

_COLUMNS = ("path", "policy", "leaf", "pretrained", "taken", "other", "unused")


def warm_start(
    params: Params, pretrained: Tree, rules: tree.Rules[str] = ((".*", "take"),)
) -> tuple[Params, Table]:
    """Fills a fresh tree with pretrained weights, as the rules say.

    - "take": the pretrained leaf of that path, which must have the same shape.
    - "init": the fresh leaf as it is.
    - "zero": zeros, as for the new head of BiT.
    - "slice": the leading block that both shapes have is taken; the rest stays fresh.

    The tree keeps its containers, dtypes and shardings. No leaf of it is one of `pretrained`.

    Args:
        params: The new model's weights; shapes will do where nothing stays fresh.
        pretrained: Weights by the same paths, in any container. May have leaves to spare.
        rules: Ordered `(path regex, policy)`.

    Returns:
        The tree, and a table with a row for each leaf: entries taken, entries that are fresh or
        zero, and pretrained entries that were not used. Spare leaves have rows at the end.

    Raises:
        ValueError: If a rule's value is no policy, a leaf has no rule, a rule no leaf, or leaves
            cannot be had as told, naming up to eight of them.

    Reference:
        Kolesnikov et al. 2020 (arXiv:1912.11370), for the zero head.
    """
    for pattern, policy in rules:
        if policy not in POLICIES:
            raise ValueError(
                f"warm_start: rule {pattern!r} gives {policy!r}; give one of {POLICIES}."
            )
    chosen = tree.resolve(rules, params, purpose="warm_start")
    fresh, old = tree.param_leaves(params), tree.leaves(pretrained)
    faults = [f for path in fresh if (f := _fault(path, fresh[path], old, chosen[path]))]
    if faults:
        raise ValueError(f"warm_start: {'; '.join(faults[:8])} ({len(faults)} leaves).")
    new = {path: _filled(leaf, old.get(path), chosen[path]) for path, leaf in fresh.items()}
    rows = [_row(path, leaf, old.get(path), chosen[path]) for path, leaf in fresh.items()]
    spare = [_row(path, None, leaf, "unused") for path, leaf in old.items() if path not in fresh]
    return tree.replace(params, new), Table(_COLUMNS, (*rows, *spare))


def _fault(path: str, leaf: Any, old: dict[str, Any], policy: str) -> str | None:
    """What keeps a leaf from being filled as its policy says."""
    if policy in ("init", "slice") and isinstance(leaf, jax.ShapeDtypeStruct):
        return f"{path!r} is a shape, and {policy!r} keeps fresh values; give an array"
    if policy in ("init", "zero"):
        return None
    if path not in old:
        return f'{path!r} is not in the pretrained tree; rename it there, or say "init" or "zero"'
    ours, theirs = tree.describe(leaf), tree.describe(old[path])
    if not _converts(jnp.result_type(old[path]), jnp.result_type(leaf)):
        return f"{path!r} is {ours}, but {theirs} in the pretrained tree; convert it first"
    if len(jnp.shape(leaf)) != len(jnp.shape(old[path])):
        return f'{path!r} is {ours}, but {theirs} in the pretrained tree; say "init" or "zero"'
    if policy == "take" and jnp.shape(leaf) != jnp.shape(old[path]):
        return (
            f"{path!r} is {ours}, but {theirs} in the pretrained tree; "
            'say "slice", "init" or "zero", or transpose it there'
        )
    return None


def _converts(theirs: Any, ours: Any) -> bool:
    both_real = jnp.issubdtype(theirs, jnp.floating) and jnp.issubdtype(ours, jnp.floating)
    return theirs == ours or both_real


def _filled(leaf: Any, source: Any, policy: str) -> Any:
    if policy == "init":
        return leaf
    if policy == "zero":
        return _placed(jnp.zeros(leaf.shape, leaf.dtype), leaf)
    if policy == "take":
        return _placed(jnp.array(source, leaf.dtype), leaf)
    block = _overlap(leaf, source)
    filled = np.array(leaf)
    filled[block] = np.asarray(source)[block].astype(filled.dtype)
    return _placed(jnp.asarray(filled), leaf)


def _placed(new: jax.Array, leaf: Any) -> jax.Array:
    """`new` where the leaf was put on purpose."""
    if isinstance(leaf, Tracer) or not getattr(leaf, "committed", True):
        return new
    sharding = getattr(leaf, "sharding", None)
    return new if sharding is None else jax.device_put(new, sharding)


def _overlap(leaf: Any, source: Any) -> tuple[slice, ...]:
    sizes = map(min, jnp.shape(leaf), jnp.shape(source))
    return tuple(slice(size) for size in sizes)


def _row(path: str, leaf: Any, source: Any, policy: str) -> tuple[Any, ...]:
    ours, theirs = _size(leaf), _size(source)
    taken = 0
    if policy in ("take", "slice"):
        taken = math.prod(block.stop for block in _overlap(leaf, source))
    described = (None if x is None else tree.describe(x) for x in (leaf, source))
    return (path, policy, *described, taken, ours - taken, theirs - taken)


def _size(leaf: Any) -> int:
    return 0 if leaf is None else math.prod(jnp.shape(leaf))
