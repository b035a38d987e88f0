"""ULMFiT's three ways to tune without forgetting: rates by depth, unfreezing, a slanted triangle.

Depths are counted from the top: 0 is the head, 1 the last block, and so on. One list of rules,
`[("head/.*", 0), ("block_3/.*", 1), …]`, serves the first two.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from wlab import tree
from wlab.tree.paths import Tree


def discriminative(
    rules: tree.Rules[int], *, ratio: float | int = 2.6
) -> optax.GradientTransformation:
    r"""Gives lower layers smaller steps: multiplies each update by $\rho^{-k}$ at depth k.

    Stands last, after the optimizer; a decoupled decay before it is scaled too.

    Args:
        rules: Ordered `(regex, k)` for every stored leaf, extra trainables included.
        ratio: ρ, by how much the rate of a layer exceeds that of the layer below.

    Raises:
        ValueError: If a depth is negative or the ratio not positive; from `init`, if a leaf has
            no rule or a rule no leaf.

    Reference:
        Howard & Ruder 2018 (arXiv:1801.06146), section 3.2.
    """
    _check_depths(rules, "discriminative")
    if not ratio > 0:
        raise ValueError(f"discriminative: the ratio must be positive, got {ratio}.")

    def init(params: Tree) -> optax.EmptyState:
        tree.match(rules, tree.paths(params), purpose="discriminative")
        return optax.EmptyState()

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        del params
        depth = tree.match(rules, tree.paths(updates), purpose="discriminative")
        return tree.map_leaves(lambda path, u: u * ratio ** -depth[path], updates), state

    return optax.GradientTransformation(init, update)


def unfreeze_at(rules: tree.Rules[int], *, every: int, begin: int = 0) -> list[tuple[str, int]]:
    """From depths to first steps, k · `every` + `begin`: what `training.gate` takes.

    Example:
        `training.gate(tx, unfreeze_at(depths, every=steps_per_epoch))` trains the head in the
        first epoch, the last block too from the second on, and so on.

    Args:
        rules: Ordered `(regex, k)`.
        every: Steps from one depth to the next.
        begin: The first step of depth 0.

    Raises:
        ValueError: If a depth or `begin` is negative, or `every` below 1.

    Reference:
        Howard & Ruder 2018 (arXiv:1801.06146), section 3.3.
    """
    _check_depths(rules, "unfreeze_at")
    if every < 1 or begin < 0:
        raise ValueError(
            f"unfreeze_at: `every` is a number of steps, at least 1, and `begin` is at least 0; "
            f"got {every} and {begin}."
        )
    return [(pattern, begin + depth * every) for pattern, depth in rules]


def slanted_triangular(
    peak: float | int, *, steps: int, cut_fraction: float = 0.1, ratio: float | int = 32
) -> optax.Schedule:
    r"""A short linear rise from `peak / ratio` and a long linear fall back to it.

    $cut = \lfloor T\,f\rfloor$; $p = t/cut$ before it, $1 - (t - cut)/(cut(1/f - 1))$ from it on;
    $\eta_t = \eta_{max}(1 + p(\rho - 1))/\rho$. Where cut was rounded down p would end below
    zero; it stops there.

    Args:
        peak: η_max, reached at step `cut`.
        steps: T, the whole run.
        cut_fraction: f, the part of the run that rises, in (0, 1).
        ratio: ρ, how much lower the lowest rate is.

    Raises:
        ValueError: If no step would rise, or the fraction or the ratio make no triangle.

    Reference:
        Howard & Ruder 2018 (arXiv:1801.06146), equation 3.
    """
    if not 0 < cut_fraction < 1 or not ratio >= 1:
        raise ValueError(
            "slanted_triangular: cut_fraction lies in (0, 1) and ratio is at least 1, got "
            f"{cut_fraction} and {ratio}."
        )
    cut = int(steps * cut_fraction)
    if cut < 1:
        raise ValueError(
            f"slanted_triangular: {cut_fraction} of {steps} steps is less than one step of rise; "
            "raise one of them."
        )

    def rate(step: Any) -> Array:
        step = jnp.asarray(step, jnp.float32)
        falling = 1 - (step - cut) / (cut * (1 / cut_fraction - 1))
        part = jnp.maximum(jnp.where(step < cut, step / cut, falling), 0)
        return peak * (1 + part * (ratio - 1)) / ratio

    return rate


def _check_depths(rules: tree.Rules[int], purpose: str) -> None:
    for pattern, depth in rules:
        if depth < 0:
            raise ValueError(
                f"{purpose}: the depth of rule {pattern!r} is {depth}; count from 0, the top."
            )
