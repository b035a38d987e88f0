"""Lottery tickets: which weights stay from round to round, and what a ticket is held against.

A round trains, `next_masks` takes away the smallest weights that are left, and `rewound` puts
those that stay back to where they were. The controls keep as many weights of every leaf.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.budget import Density
from wlab.pruning.choosing import largest
from wlab.pruning.selection import topk_mask, topk_masks
from wlab.pruning.shares import Share, budgets, pruned_shares
from wlab.transform import Key, Params

Masks: TypeAlias = Mapping[str, Bool[Array, "..."]]
"""Which weights stay, by the path of their leaf."""


def all_kept(params: Params, rules: tree.Rules[Share]) -> dict[str, Bool[Array, "..."]]:
    """The masks before the first round.

    Raises:
        ValueError: If the rules do not fit the tree or select none.
    """
    shares, leaves = pruned_shares(rules, params, purpose="all_kept"), tree.leaves(params)
    return {path: jnp.ones(jnp.shape(leaves[path]), bool) for path in shares}


def next_masks(
    params: Params,
    masks: Masks,
    density: Density,
    rules: tree.Rules[Share],
    *,
    allocation: Allocation = uniform,
) -> dict[str, Bool[Array, "..."]]:
    """The largest weights among those that are left: iterative magnitude pruning.

    What is gone never returns, whatever the weights are. Exact counts; runs under jit and vmap.

    Args:
        params: Trained.
        masks: Of the round before.
        density: The fraction kept of all weights there are, not of those that are left.
        rules: As in `magnitude`; a leaf with a density of its own is pruned to that.
        allocation: As in `magnitude`.

    Raises:
        ValueError: If the rules do not fit the tree, prune a leaf without a mask, or a density is
            outside [0, 1].

    Reference:
        Frankle & Carbin 2019 (arXiv:1803.03635), section 1, strategy 2.
    """
    shares, leaves = pruned_shares(rules, params, purpose="next_masks"), tree.leaves(params)
    for path in shares:
        if path not in masks:
            raise ValueError(
                f"next_masks: leaf {path!r} is pruned, but the round before has no mask of it; "
                f"there are masks of {', '.join(masks)}. Give the rules of `all_kept`."
            )
    shapes = {path: jnp.shape(leaves[path]) for path in shares}
    scores = {path: jnp.where(masks[path], jnp.abs(leaves[path]), -1) for path in shares}
    chosen = largest(scores, budgets(shares, shapes, density, allocation))
    return {path: mask & masks[path] for path, mask in chosen.items()}


def rewound(params: Params, masks: Masks) -> Params:
    """A ticket: earlier weights, zero where a mask says so.

    Args:
        params: Of the start, or of step k: rewinding (Frankle et al. 2020, arXiv:1912.05671).
        masks: What stays.

    Raises:
        ValueError: If a mask is of no leaf.
    """
    leaves = _leaves_of(params, masks)
    return tree.replace(params, {p: jnp.where(m, leaves[p], 0) for p, m in masks.items()})


def shuffled(masks: Masks, key: Key) -> dict[str, Bool[Array, "..."]]:
    """As many places of every leaf, chosen by chance.

    Reference:
        Frankle et al. 2021 (arXiv:2009.08576), section 4: shuffled within layers.
    """
    keys = _keys(masks, key)
    return {path: _by_chance(mask, keys[path]) for path, mask in masks.items()}


def spread(masks: Masks, key: Key) -> dict[str, Bool[Array, "..."]]:
    """As many places of the whole, chosen by chance wherever they are."""
    keys = _keys(masks, key)
    scores = [jax.random.uniform(keys[path], mask.shape) for path, mask in masks.items()]
    kept = sum(jnp.sum(mask, dtype=jnp.int32) for mask in masks.values())
    return dict(zip(masks, topk_masks(scores, jnp.asarray(kept)), strict=True))


def signed(params: Params, masks: Masks, *, scale: Callable[[Array], Array] = jnp.std) -> Params:
    """A ticket that keeps of each weight its sign alone: all of a leaf are as large.

    Args:
        params: Of the start.
        masks: What stays.
        scale: The size, from a leaf.

    Raises:
        ValueError: If a mask is of no leaf.

    Reference:
        Zhou et al. 2019 (arXiv:1905.01067), section 4.1.
    """
    leaves = _leaves_of(params, masks)
    signs = {path: jnp.sign(leaves[path]) * scale(leaves[path]) for path in masks}
    return rewound(tree.replace(params, signs), masks)


def _leaves_of(params: Params, masks: Masks) -> dict[str, Array]:
    """All leaves, those with a mask among them."""
    leaves = tree.leaves(params)
    for path in masks:
        if path not in leaves:
            raise ValueError(
                f"there is a mask of {path!r}, but no such leaf; there are {', '.join(leaves)}."
            )
    return leaves


def _by_chance(mask: Bool[Array, "..."], key: Key) -> Bool[Array, "..."]:
    return topk_mask(jax.random.uniform(key, mask.shape), jnp.sum(mask, dtype=jnp.int32))


def _keys(masks: Masks, key: Key) -> dict[str, Key]:
    return {path: tree.path_key(key, path) for path in masks}
