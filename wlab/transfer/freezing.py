"""Frozen leaves: taken out of what is stored, kept in the state, seen as ever."""

from typing import NamedTuple

import jax
from jaxtyping import Array

from wlab import tree
from wlab.transform import Key, Params, Step, WeightTransform


class FreezeState(NamedTuple):
    """The frozen leaves, by path."""

    frozen: dict[str, Array]


def freeze(rules: tree.Rules[bool | None]) -> WeightTransform:
    """Keeps leaves bit-identical for ever, and out of the optimizer's sight.

    They are no part of `stored`: no gradient, no moments, no decay, no average, and no step on
    them to undo. Rules of optimizers, decay and shardings are about what is left, so name no
    frozen leaf there. To unfreeze later in the same run, use `training.gate` instead.

    Args:
        rules: Ordered `(path regex, frozen)`; None and False leave a leaf to be trained.

    Raises:
        ValueError: From `init`, if a leaf has no rule, a rule no leaf, or nothing is left.
    """

    def init(params: Params, key: Key) -> tuple[Params, FreezeState]:
        del key
        found = tree.leaves(params)
        frozen = {path: found[path] for path in tree.selected(rules, params, purpose="freeze")}
        if len(frozen) == len(found):
            raise ValueError(f"freeze: the rules freeze all of {list(found)[:8]}; train a leaf.")
        return tree.replace(params, dict.fromkeys(frozen)), FreezeState(frozen)

    def view(stored: Params, state: FreezeState, step: Step) -> Params:
        del step
        return tree.replace(stored, jax.lax.stop_gradient(state.frozen))

    return WeightTransform(init, view)
