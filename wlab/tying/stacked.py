"""Sharing for layers that are stacked along axis 0 and scanned over."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from wlab.transform import Key, Params, State, Step, WeightTransform
from wlab.tree import Rules, describe, leaves, replace, resolve


def share_stacked(rules: Rules[int | None]) -> WeightTransform:
    """Stores one layer for every run of `n` neighbours of a stacked leaf (layers, ...).

    Layers kn, ..., kn + n - 1 are seen as stored layer k, which starts as layer kn was.

    Args:
        rules: Ordered `(regex, layers per stored layer)`; None leaves the leaf alone.

    Raises:
        ValueError: From `init`, if a leaf has no rule or a rule no leaf, or if `n` does not
            divide the number of layers.
    """

    def init(params: Params, key: Key) -> tuple[Params, State]:
        del key
        return _on_shared(rules, params, _keep_first), ()

    def view(stored: Params, state: State, step: Step) -> Params:
        del state, step
        return _on_shared(rules, stored, _repeat)

    return WeightTransform(init, view)


def _on_shared(rules: Rules[int | None], tree: Params, f: Callable[[str, Any, int], Any]) -> Params:
    found = leaves(tree)
    runs = resolve(rules, tree, purpose="share_stacked")
    shared = {path: n for path, n in runs.items() if n is not None}
    return replace(tree, {path: f(path, found[path], n) for path, n in shared.items()})


def _keep_first(path: str, leaf: Any, n: int) -> Any:
    if leaf.ndim == 0 or n < 1 or leaf.shape[0] % n:
        raise ValueError(
            f"share_stacked: {path!r} is {describe(leaf)}, whose first axis is not a "
            f"multiple of {n} layers. Choose a divisor, or None to leave it alone."
        )
    return leaf[::n]


def _repeat(path: str, leaf: Any, n: int) -> Any:
    del path
    return jnp.repeat(leaf, n, axis=0)
