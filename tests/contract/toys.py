"""Transforms that no room has yet, to try the protocol's corners: they stay in the tests."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wlab import Stored, WeightTransform, tree


class Alternating(NamedTuple):
    masks: dict[str, jax.Array]


def alternating(rules: tree.Rules[bool]) -> WeightTransform:
    """Drops one third of each leaf and regrows it two steps later, for ever.

    Two thirds live, and some of them outlive the change: were all weights born anew, at zero,
    no gradient would come through them, and adam(eps=0) would divide 0 by 0.
    """

    def kept(leaf: Any, turn: Any) -> jax.Array:
        index = sum(jax.lax.broadcasted_iota(jnp.int32, leaf.shape, d) for d in range(leaf.ndim))
        return (index + turn) % 3 != 0

    def init(params: Any, key: Any) -> tuple[Any, Alternating]:
        del key
        found, chosen = tree.leaves(params), tree.selected(rules, params)
        return params, Alternating({path: jnp.ones(found[path].shape, bool) for path in chosen})

    def project(stored: Any, state: Alternating) -> Any:
        found = tree.leaves(stored)
        return tree.replace(
            stored, {path: jnp.where(m, found[path], 0) for path, m in state.masks.items()}
        )

    def view(stored: Any, state: Alternating, step: Any) -> Any:
        del step
        found = tree.leaves(stored)
        stop = jax.lax.stop_gradient
        return tree.replace(
            stored,
            {path: jnp.where(m, found[path], stop(found[path])) for path, m in state.masks.items()},
        )

    def update(stored: Any, grads: Any, state: Alternating, step: Any) -> Alternating:
        del grads
        found = tree.leaves(stored)
        turn = (jnp.int32(step) + 2) // 2
        return Alternating({path: kept(found[path], turn) for path in state.masks})

    return WeightTransform(init, view, project, update, in_place=True)


def steepest(rules: tree.Rules[bool]) -> WeightTransform:
    """Keeps the entries whose gradient is above its mean: reads the gradients as RigL does."""
    base = alternating(rules)

    def update(stored: Any, grads: Any, state: Alternating, step: Any) -> Alternating:
        del stored, step
        size = {path: jnp.abs(leaf) for path, leaf in tree.leaves(grads).items()}
        return Alternating({path: size[path] >= jnp.mean(size[path]) for path in state.masks})

    return base._replace(update=update, needs_grads=True)


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
