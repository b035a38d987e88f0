"""Which leaves are pruned, and what each is allowed: rules made into budgets."""

import math
import re
from collections.abc import Mapping
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array

from wlab import tree
from wlab.pruning.allocation import Allocation, Budget, Shape
from wlab.pruning.budget import Density, kept, refuse_bad_density
from wlab.pruning.order import key_bits
from wlab.pruning.patterns import Pattern, refuse_misfit
from wlab.transform import Params

Share: TypeAlias = Density | bool | None
"""True: pruned, within the allocation. A density: pruned to its own. None, False: left alone."""

Choice: TypeAlias = Share | Pattern
"""A share, or which entries of a leaf compete: `Neighbours(2, 4)`."""


def pruned_shares(rules: tree.Rules[Share], params: Params, *, purpose: str) -> dict[str, Density]:
    """The shares of the leaves that are pruned, by path: True or a density each.

    Raises:
        ValueError: If a leaf has no rule, a rule no leaf, no leaf is selected, a density is
            outside [0, 1], or a leaf has a pattern.
        TypeError: If a selected leaf is not float32, bfloat16 or float16.
    """
    choices = pruned_choices(rules, params, purpose=purpose)
    for path, choice in choices.items():
        if isinstance(choice, Pattern):
            raise ValueError(
                f"{purpose}: leaf {path!r} has {choice}, but {purpose} knows no patterns. Give it "
                "True or a density; `prune`, `magnitude` and `straight_through` take patterns."
            )
    return choices


def pruned_choices(
    rules: tree.Rules[Choice], params: Params, *, purpose: str
) -> dict[str, Density | Pattern]:
    """What is said of each leaf that is pruned, by path: True, a density or a pattern.

    Raises:
        ValueError: If a leaf has no rule, a rule no leaf, no leaf is selected, a density is
            outside [0, 1], or a pattern does not fit its leaf.
        TypeError: If a selected leaf is not float32, bfloat16 or float16.
    """
    choices = tree.resolve(rules, params, purpose=purpose)
    pruned = {path: choice for path, choice in choices.items() if is_pruned(choice)}
    if not pruned:
        raise ValueError(f"{purpose}: the rules select none of the leaves {list(choices)}.")
    named = tree.leaves(params)
    for path, choice in pruned.items():
        _refuse_bad_choice(choice, path, jnp.shape(named[path]), purpose)
        try:
            key_bits(jnp.result_type(named[path]))
        except TypeError as error:
            raise TypeError(f"{purpose}: leaf {path!r} cannot be ranked. {error}") from None
    return pruned


def is_pruned(share: Choice) -> bool:
    """Whether a share is anything but None or False; a density of 0 is."""
    return share is not None and share is not False


def matrices(params: Params) -> tree.Rules[Share]:
    """The rules that prune every float leaf of two or more axes and leave the others alone."""
    return [(re.escape(path), _is_matrix(leaf)) for path, leaf in tree.param_leaves(params).items()]


def budgets(
    shares: Mapping[str, Density],
    shapes: Mapping[str, Shape],
    density: Density,
    allocation: Allocation,
) -> list[Budget]:
    """A budget of its own for every leaf with a density; the allocation's for the others.

    Raises:
        TypeError: If the allocation is no function, as its name is none.
    """
    if not callable(allocation):
        raise TypeError(f"an allocation is a function, as pruning.globally; got {allocation!r}.")
    own = {path: share for path, share in shares.items() if share is not True}
    shared = {path: shapes[path] for path in shares if path not in own}
    alone = [Budget((path,), kept(math.prod(shapes[path]), d)) for path, d in own.items()]
    return alone + (allocation(shared, density) if shared else [])


def _refuse_bad_choice(choice: Choice, path: str, shape: Shape, purpose: str) -> None:
    if not isinstance(choice, Pattern):
        return refuse_bad_density(choice, f"density of {path!r}")
    try:
        return refuse_misfit(choice, shape)
    except ValueError as error:
        raise ValueError(f"{purpose}: leaf {path!r} of shape {shape}: {error}") from None


def _is_matrix(leaf: Array) -> bool:
    return jnp.ndim(leaf) > 1 and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
