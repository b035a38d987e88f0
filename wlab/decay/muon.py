"""Which leaves are Muon's: by rules, not by their number of axes."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from wlab.tree import Rules, describe, map_leaves, param_leaves, resolve
from wlab.tree.paths import Tree

MuonRules: TypeAlias = Rules[bool | MuonDimensionNumbers | None]

_IN_OUT = MuonDimensionNumbers(reduction_axis=0, output_axis=1)


def muon_labels(rules: MuonRules) -> Callable[[Tree], Tree]:
    """Labels each leaf `muon` or `adam`, for `optax.partition`; extra trainables are Adam's.

    Raises:
        ValueError: From the result, if a leaf with True is not 2-D, has no rule, or a rule no leaf.
    """

    def labels(tree: Tree) -> Tree:
        chosen = resolve(rules, tree, purpose="muon")
        for path, leaf in param_leaves(tree).items():
            if chosen[path] is True and jnp.ndim(leaf) != 2:
                raise ValueError(
                    f"muon: leaf {path!r} is {describe(leaf)}, not a matrix; give its rule "
                    "optax.contrib.MuonDimensionNumbers, or None to leave it to Adam."
                )
        return map_leaves(lambda path, _: "muon" if chosen.get(path) else "adam", tree)

    return labels


def orthogonalized(rules: MuonRules, *, beta: float) -> optax.GradientTransformation:
    r"""Momentum made orthogonal, times $\sqrt{\max(1, out/in)}$; sees Muon's leaves only."""
    own = [rule for rule in rules if rule[1]]

    def numbers(tree: Tree) -> Tree:
        chosen = resolve(own, tree, purpose="muon")
        return map_leaves(lambda path, _: _IN_OUT if chosen[path] is True else chosen[path], tree)

    def widened(updates: Tree, params: Tree | None) -> Tree:
        del params
        return jax.tree.map(lambda u, axes: _width(u.shape, axes) * u, updates, numbers(updates))

    return optax.named_chain(
        ("momentum", scale_by_muon(beta=beta, weight_dimension_numbers=numbers)),
        ("width", optax.stateless(widened)),
    )


def _width(shape: tuple[int, ...], axes: MuonDimensionNumbers) -> float:
    fan_in, fan_out = (_size(shape, named) for named in axes)
    return math.sqrt(max(1.0, fan_out / fan_in))


def _size(shape: tuple[int, ...], axes: Any) -> int:
    return math.prod(shape[axis] for axis in ((axes,) if isinstance(axes, int) else axes))
