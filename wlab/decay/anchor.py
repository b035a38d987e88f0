"""Decay towards another point than zero: the initial or the pre-trained weights."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from wlab.decay.rates import RateRules, check_rates, resolve_rates
from wlab.decay.terms import given, with_terms
from wlab.tree import describe, leaves, map_leaves
from wlab.tree.paths import Tree


class TowardState(NamedTuple):
    """The updates so far and the anchor, with None for leaves that have no rate."""

    step: Int[Array, ""]
    anchor: Any


def toward(rules: RateRules, anchor: Tree | None = None) -> optax.GradientTransformation:
    r"""Pulls each weight to its anchor instead of to zero.

    $u \leftarrow u + \lambda_t(w - w^0)$. Placed first it is the penalty
    $\frac{\lambda}{2}\lVert w - w^0\rVert^2$ (L2-SP, L2 Init); placed before the learning rate it
    is decoupled, and with zero gradients $w_t - w^0 = (1 - lr\,\lambda)^t(w_0 - w^0)$.

    The anchor is state: it is saved, sharded and, like a moment, projected with the weights. So
    a pruned weight has anchor zero and is not pulled back; regrown, it decays towards zero.

    Args:
        rules: Ordered `(regex, rate)`; a leaf with None (a new head) needs no anchor.
        anchor: Weights by the same paths, in any container; None copies them at `init`.
    Raises:
        ValueError: If a rate is negative; from `init`, if a leaf has no rule or a rule no leaf,
            or if the anchor lacks a leaf or has it in another shape.
    Reference:
        Li, Grandvalet & Davoine 2018 (arXiv:1802.01483); Kumar et al. 2023 (arXiv:2308.11958).
    """
    check_rates(rules, "toward")

    def init(params: Tree) -> TowardState:
        rates = resolve_rates(rules, params, "toward")
        source = leaves(params if anchor is None else anchor)

        def copied(path: str, leaf: Any) -> Any:
            return None if rates[path] is None else _anchored(path, leaf, source)

        return TowardState(jnp.zeros((), jnp.int32), map_leaves(copied, params))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, TowardState]:
        params = given(params, "toward")
        weights, anchors = leaves(params), leaves(state.anchor)
        updates = with_terms(
            lambda u, distance, rate: u + rate * distance,
            updates,
            {path: weights[path] - anchors[path] for path in anchors},
            resolve_rates(rules, params, "toward"),
            state.step,
        )
        return updates, TowardState(state.step + 1, state.anchor)

    return optax.GradientTransformation(init, update)


def _anchored(path: str, leaf: Any, source: dict[str, Any]) -> Array:
    """A copy: the caller's weights may be donated to the first step."""
    if path not in source:
        raise ValueError(
            f"toward: the anchor has no leaf {path!r}; add it, or give the leaf the rate None."
        )
    if jnp.shape(source[path]) != jnp.shape(leaf):
        raise ValueError(
            f"toward: leaf {path!r} is {describe(leaf)} but its anchor is "
            f"{describe(source[path])}; give an anchor of that shape, or the rate None."
        )
    return jnp.array(source[path], jnp.result_type(leaf))
