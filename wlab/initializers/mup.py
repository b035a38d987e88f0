"""Maximal update parametrization: what to multiply when a model gets wider.

A base tree and a target tree of the same model, one narrow and one wide, are compared leaf by
leaf; the ratios of their fans give the multipliers of initial weights and learning rates.
With them, what was tuned on the base serves the target. Nothing is attached to the model.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import optax

from wlab import tree
from wlab.initializers.fans import Axes, fans
from wlab.tree.paths import Tree


class WidthRatio(NamedTuple):
    """How many times larger each fan of a leaf is in the target than in the base."""

    fan_in: float
    fan_out: float


def width_ratios(
    base: Tree,
    target: Tree,
    *,
    axes: tree.Rules[Axes | None] = ((".*", None),),
) -> dict[str, WidthRatio]:
    """Compares the fans of two trees, which may be shapes, by path.

    Args:
        base: The narrow model.
        target: The wide one: the same paths and ranks.
        axes: Rules for which axes are which. None means: inputs -2 and outputs -1 for
            kernels and embeddings, outputs only for vectors. Declare attention kernels,
            `(out, in)` kernels and stacked layers.

    Raises:
        ValueError: If the trees differ in more than sizes, or a declared axis is not there.
    """
    narrow, wide = tree.param_leaves(base), tree.param_leaves(target)
    if narrow.keys() != wide.keys():
        raise ValueError(
            f"mup: leaves {sorted(narrow.keys() ^ wide.keys())[:8]} are in one of the two trees "
            "only; build base and target from one model, at two widths."
        )
    declared = tree.resolve(axes, target, purpose="mup axes")
    return {
        path: _ratio(path, tuple(narrow[path].shape), tuple(leaf.shape), declared[path])
        for path, leaf in wide.items()
    }


def mup_init(ratios: Mapping[str, WidthRatio]) -> dict[str, float]:
    """Multipliers of weights that were drawn with variance ∝ 1/fan_in (LeCun, He).

    Hidden and input weights keep 1. Output weights get 1/√r, where r is the ratio of their
    fan_in, so that their variance goes as 1/fan_in². Apply with `scale_leaves`.

    Reference:
        Yang et al. 2022 (arXiv:2203.03466), table 3. Attention logits must be divided by the
        size of a head, not by its root: that is up to the model.
    """
    return {
        path: 1 / math.sqrt(ratio.fan_in) if ratio.fan_out == 1 else 1.0
        for path, ratio in ratios.items()
    }


def mup_adam(ratios: Mapping[str, WidthRatio]) -> dict[str, float]:
    """Learning-rate multipliers for Adam and its like: 1/r, r the ratio of fan_in.

    Reference:
        Yang et al. 2022 (arXiv:2203.03466), table 3.
    """
    return {path: 1 / ratio.fan_in for path, ratio in ratios.items()}


def mup_sgd(ratios: Mapping[str, WidthRatio]) -> dict[str, float]:
    """Learning-rate multipliers for SGD: the ratio of fan_out over that of fan_in.

    Reference:
        Yang et al. 2022 (arXiv:2203.03466), table 3.
    """
    return {path: ratio.fan_out / ratio.fan_in for path, ratio in ratios.items()}


def scale_leaves(params: Tree, multipliers: Mapping[str, float]) -> Tree:
    """Multiplies each leaf by the number at its path."""
    return tree.map_leaves(lambda path, leaf: leaf * multipliers[path], params)


def scale_by_path(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each leaf's update by the number at its path: a learning rate for each leaf.

    After an optimizer this scales its decoupled decay too; to keep decay as it is, put this
    between `scale_by_adam` and `add_decayed_weights`.

    Raises:
        ValueError: From `init`, if a leaf has no multiplier.
    """

    def init(params: optax.Params) -> optax.OptState:
        missing = [path for path in tree.paths(params) if path not in multipliers]
        if missing:
            raise ValueError(
                f"scale_by_path: no multiplier for {missing[:8]}; give these leaves 1.0."
            )
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        return scale_leaves(updates, multipliers), state

    return optax.GradientTransformation(init, update)


def _ratio(
    path: str, base: tuple[int, ...], target: tuple[int, ...], axes: Axes | None
) -> WidthRatio:
    if len(base) != len(target):
        raise ValueError(f"mup: leaf {path!r} has shape {base} in base but {target} in target.")
    if axes is None:
        is_kernel = len(target) > 1
        axes = {} if is_kernel else {"in_axis": (), "out_axis": tuple(range(len(target)))}
    try:
        narrow, wide = fans(base, **axes), fans(target, **axes)
    except ValueError as error:
        raise ValueError(f"mup: leaf {path!r}: {error}") from error
    return WidthRatio(wide.fan_in / narrow.fan_in, wide.fan_out / narrow.fan_out)
