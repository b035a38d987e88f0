"""Low-rank adapters as a weight transform: the factors are stored, the base is frozen.

The factors of `block_0/attn/q/kernel` are the leaves `block_0/attn/q/kernel/a` and `…/b` (and
`…/m` under DoRA): parameters like any other, so every rule, optimizer, decay and checkpoint meets
them by the path of the kernel they stand for. They are no extras of a `wlab.Stored`, which lie
beside a parameter that is still stored and which no rule meets unless it asks for them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.transfer.adapter import Adapter
from wlab.transfer.axes import Factors
from wlab.transfer.kernels import fresh_factors, merged_kernel, unmerged_kernel, with_magnitude
from wlab.transform import Key, Params, Step, WeightTransform

Choice: TypeAlias = Adapter | str | bool | None
"""True or an Adapter: adapted. None, False: frozen. "train": trained whole."""


class Base(NamedTuple):
    """How the kernels under the adapters are kept.

    Attributes:
        compress: From a kernel to any pytree of arrays.
        expand: Back to an array of the kernel's shape and dtype, at every view.
    """

    compress: Callable[[Float[Array, "..."]], Any]
    expand: Callable[[Any], Float[Array, "..."]]


@jax.tree_util.register_pytree_with_keys_class
class Adapted(NamedTuple):
    """What is trained beside a frozen base; each leaf keeps the path it has in the model.

    Attributes:
        params: The parameter tree with holes, but for the leaves that are trained whole.
        factors: By the path of their kernel.
    """

    params: Params
    factors: dict[str, Factors]

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], None]:
        inline = jax.tree_util.DictKey("")
        return ((inline, self.params), (inline, self.factors)), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: tuple[Any, Any]) -> "Adapted":
        del aux
        return cls(*children)


class AdapterState(NamedTuple):
    """What never moves, by path.

    Attributes:
        base: The kernels under the adapters, compressed.
        frozen: The leaves without an adapter that are not trained.
    """

    base: dict[str, Any]
    frozen: dict[str, Array]


def lora(
    adapter: Adapter, rules: tree.Rules[Choice], *, base: Base | None = None
) -> WeightTransform:
    r"""Trains low-rank changes of the chosen kernels, and nothing else unless told to.

    A fresh adapter changes nothing the model sees. `finalize` folds the factors into plain
    weights. In front of a tie, `chain(lora=…, tie=…)`, the one stored leaf is adapted and all
    its users see the change.

    The view computes the dense kernel, so a step costs as much as training it; what is saved is
    the gradient, the moments and the checkpoint of `stored`.

    Example:
        `lora(Adapter(8, alpha=16), [(".*/(q|v)/kernel", True), ("head/.*", "train"),
        (".*", None)])`. QLoRA: `base=Base(lambda w: quantize(w, int4(group_size=64)),
        dequantize)`, with `wlab.quantization`.

    Args:
        adapter: Where a rule says True; `dora(8)` trains lengths too.
        rules: Ordered `(path regex, choice)`. True or an `Adapter` of the leaf's own: adapted,
            its base frozen. "train": stays as it is, trained whole. None or False: frozen too.
        base: How the frozen kernels are kept; as they are if None. A lossy one is what the
            fresh model sees.

    Raises:
        ValueError: From `init`, if a leaf has no rule, a rule no leaf, no leaf is adapted, or a
            leaf lacks the declared axes.
        TypeError: If a rule's value is no choice; from `init`, if an adapted leaf is not real
            floating point.

    Reference:
        Hu et al. 2021 (arXiv:2106.09685), section 4.1; Dettmers et al. 2023 (arXiv:2305.14314),
        equation 5, for a quantized base.
    """
    _check_rules(rules)
    kept = Base(lambda kernel: kernel, lambda kernel: kernel) if base is None else base

    def init(params: Params, key: Key) -> tuple[Adapted, AdapterState]:
        found, chosen = tree.leaves(params), _choices(rules, tree.param_leaves(params), adapter)
        bases, factors = {}, {}
        for path, choice in chosen.items():
            if isinstance(choice, Adapter):
                bases[path], factors[path] = _split(path, found[path], choice, kept, key)
        if not factors:
            raise ValueError(f"lora: the rules adapt none of the leaves {list(chosen)[:16]}.")
        frozen = {path: found[path] for path, choice in chosen.items() if choice is None}
        rest = tree.replace(params, dict.fromkeys((*bases, *frozen)))
        return Adapted(rest, factors), AdapterState(bases, frozen)

    def view(stored: Adapted, state: AdapterState, step: Step) -> Params:
        del step
        state = jax.lax.stop_gradient(state)
        paths = [*tree.param_leaves(stored.params), *state.base, *state.frozen]
        chosen = _choices(rules, paths, adapter)
        seen = {
            path: merged_kernel(kept.expand(packed), stored.factors[path], chosen[path])
            for path, packed in state.base.items()
        }
        return tree.replace(stored.params, {**seen, **state.frozen})

    return WeightTransform(init, view)


def _choices(rules: tree.Rules[Choice], paths: Any, default: Adapter) -> dict[str, Any]:
    """For each path its adapter, "train", or None if it is frozen."""
    chosen = tree.match(rules, list(paths), purpose="lora")
    return {path: default if c is True else c or None for path, c in chosen.items()}


def _split(path: str, kernel: Array, adapter: Adapter, kept: Base, key: Key) -> tuple[Any, Factors]:
    """The base, as it is kept, and the factors of one leaf."""
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise TypeError(
            f"lora: leaf {path!r} is {tree.describe(kernel)}, not real floating point: "
            "give it the rule value None."
        )
    try:
        factors = fresh_factors(tree.path_key(key, path), kernel, adapter)
        packed = kept.compress(unmerged_kernel(kernel, factors, adapter))
    except ValueError as error:
        raise ValueError(f"lora: leaf {path!r}: {error}") from error
    if not adapter.magnitude:
        return packed, factors
    return packed, with_magnitude(kept.expand(packed), factors, adapter)


def _check_rules(rules: Sequence[tuple[str, Any]]) -> None:
    for pattern, choice in rules:
        known = choice is None or choice == "train" or isinstance(choice, bool | Adapter)
        if not known:
            raise TypeError(
                f"lora: rule {pattern!r} gives {choice!r}; give True, an Adapter, "
                '"train", or None for a frozen leaf.'
            )
