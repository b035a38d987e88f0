"""A trained adapter as a value: what `lora` was told, and what it stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax

from wlab import tree
from wlab.transfer.adapter import Adapter
from wlab.transfer.lora import Adapted, Base, Choice, lora
from wlab.transform import LAST_STEP, Key, Params, State, WeightTransform


@dataclass(frozen=True, eq=False)
class Adaptation:
    """All of an adapted network but its base.

    Example:
        `training.init_state(params, found.weights, tx, key=key)` trains on, and
        `found.merged(params)` are plain weights.

    Attributes:
        adapter: As given to `lora`.
        rules: As given to `lora`.
        stored: The factors, and the leaves that are trained whole.
        base: As given to `lora`: how the kernels under the adapters are kept.
    """

    adapter: Adapter
    rules: tree.Rules[Choice]
    stored: Adapted
    base: Base | None = None

    @property
    def weights(self) -> WeightTransform:
        """`lora`, which begins with `stored` on whatever base it is given."""
        return continued(lora(self.adapter, self.rules, base=self.base), self.stored)

    def adapters(self, paths: Iterable[str]) -> dict[str, Adapter]:
        """The adapter of each kernel that has one, by path.

        Args:
            paths: Of all leaves that `lora` was given.

        Raises:
            ValueError: If a leaf has no rule or a rule no leaf.
        """
        chosen = tree.match(self.rules, list(paths), purpose="adapters")
        found = {path: self.adapter if c is True else c for path, c in chosen.items()}
        return {path: choice for path, choice in found.items() if isinstance(choice, Adapter)}

    def merged(self, params: Params) -> Params:
        """The plain weights: `params` with the factors folded in, and trained leaves replaced.

        Raises:
            ValueError: If the adapter is not one of these parameters.
        """
        key = jax.random.key(0)
        jax.eval_shape(self.weights.init, params, key)  # refuses what does not fit
        weights = lora(self.adapter, self.rules, base=self.base)

        def folded(params: Params, stored: Adapted) -> Params:
            _, state = weights.init(params, key)
            return weights.view(stored, state, LAST_STEP)

        return jax.jit(folded)(params, self.stored)


def continued(weights: WeightTransform, stored: Any) -> WeightTransform:
    """The transform, begun with what was trained before instead of afresh.

    Its `init` takes the base, such as the network that an adapter was trained on, and not what
    the model sees then.

    Args:
        weights: Any transform.
        stored: What its `init` stores, trained: the same paths, shapes and dtypes.

    Raises:
        ValueError: From `init`, if `stored` does not fit, naming the leaf.
    """

    def init(params: Params, key: Key) -> tuple[Params, State]:
        fresh, state = weights.init(params, key)
        wanted, given = tree.leaves(fresh), tree.leaves(stored)
        for path in {**wanted, **given}:
            ours, theirs = (_described(leaves.get(path)) for leaves in (wanted, given))
            if ours != theirs:
                raise ValueError(
                    f"continued: leaf {path!r} is {ours} where the transform begins, {theirs} in "
                    "what was stored. Use the rules and the parameters it was trained with."
                )
        return tree.replace(fresh, given), state

    return weights._replace(init=init)


def _described(leaf: Any) -> str:
    return "absent" if leaf is None else tree.describe(leaf)
