"""Gradual unfreezing inside one compiled step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from wlab import tree


class GateState(NamedTuple):
    """Steps done, and the wrapped transformation's state."""

    step: Int[Array, ""]
    inner: Any


def gate(
    tx: optax.GradientTransformation, rules: tree.Rules[int]
) -> optax.GradientTransformationExtraArgs:
    """Holds each leaf bit-identical until its first step, then lets `tx` move it.

    Before that step the leaf's gradient is zero to `tx` (so clipping does not count it), its
    update is dropped and its moments stay as they are. Zeroing gradients alone would not
    freeze: decay and momentum still move the weight.

    Args:
        tx: Any optax transformation.
        rules: `(regex, first step)` for every stored leaf, extra trainables included.

    Raises:
        ValueError: From `init`, if a leaf has no rule, a rule no leaf, or a step is negative.
    """
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> GateState:
        for pattern, begin in rules:
            if begin < 0:
                raise ValueError(f"gate: the first step of {pattern!r} is negative: {begin}.")
        tree.match(rules, tree.paths(params), purpose="gate")
        return GateState(jnp.int32(0), wrapped.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        begin = tree.match(rules, tree.paths(updates), purpose="gate")
        shapes = {path: leaf.shape for path, leaf in tree.leaves(updates).items()}
        live = {path: state.step >= first for path, first in begin.items()}

        def open_or_zero(path: str, x: Array) -> Array:
            return jnp.where(live[path], x, jnp.zeros_like(x))

        def open_or_old(path: str, new: Array, old: Array) -> Array:
            leaf = tree.owner(path, shapes)
            if leaf is None or shapes[leaf] != jnp.shape(new):
                return new
            return jnp.where(live[leaf], new, old)

        updates = tree.map_leaves(open_or_zero, updates)
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        inner = tree.map_leaves(open_or_old, inner, state.inner)
        return tree.map_leaves(open_or_zero, updates), GateState(state.step + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)
