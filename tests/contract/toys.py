"""Transforms that no room has yet, to try the protocol's corners: they stay in the tests."""

from typing import Any

import jax.numpy as jnp

from wlab import Stored, WeightTransform, tree


def scaled(rules: tree.Rules[bool]) -> WeightTransform:
    """Stores a direction and a learned scalar for each leaf: extra trainables."""

    def init(params: Any, key: Any) -> tuple[Stored, tuple[()]]:
        del key
        found = tree.leaves(params)
        extra = {path: jnp.ones((), found[path].dtype) for path in tree.selected(rules, params)}
        return Stored(params, extra), ()

    def view(stored: Stored, state: Any, step: Any) -> Any:
        del state, step
        found = tree.leaves(stored.params)
        return tree.replace(
            stored.params, {path: found[path] * scale for path, scale in stored.extra.items()}
        )

    return WeightTransform(init, view)
