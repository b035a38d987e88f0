"""Steps as one would write them for one network and one method, without `wlab.transform`.

They do the same work as the wlab steps beside which they are timed, and give the same weights
(tests/experiments/test_bench.py). They use the same array functions: what is compared is the
composition, not the selection or the rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from experiments.bench.task import MeanLoss
from wlab import pruning, quantization
from wlab.transform import Params

PlainState: TypeAlias = tuple[Params, Any]


class PrunedState(NamedTuple):
    """Weights, Adam's moments, a packed mask for each kernel, and the steps done."""

    params: Params
    opt: Any
    masks: dict[str, jax.Array]
    step: jax.Array


def plain(loss: MeanLoss, tx: optax.GradientTransformation) -> Callable[[PlainState, Any], Any]:
    """The step of optax's own examples."""

    def step(state: PlainState, batch: Any) -> tuple[PlainState, jax.Array]:
        params, opt = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), value

    return step


def pruned(
    loss: MeanLoss, tx: optax.GradientTransformation, kept: Mapping[str, int]
) -> Callable[[PrunedState, Any], Any]:
    """A step that prunes every kernel at step 0 and keeps its zeros from then on.

    Args:
        loss: The mean loss as a function of the stored weights.
        tx: Adam.
        kept: How many weights each kernel keeps.
    """

    def choose(params: Params, masks: dict[str, jax.Array]) -> dict[str, jax.Array]:
        new = {}
        for layer, packed in masks.items():
            kernel = params[layer]["kernel"]
            alive = pruning.unpack(packed, kernel.shape)
            scores = jnp.where(alive, jnp.abs(kernel), -1)
            new[layer] = pruning.pack(pruning.topk_mask(scores, kept[layer]) & alive)
        return new

    def prune(params: Params, opt: Any, masks: dict[str, jax.Array]) -> tuple[Any, ...]:
        new = choose(params, masks)
        return zeroed(params, new), zeroed_adam(zeroed_adam(opt, masks), new), new

    def step(state: PrunedState, batch: Any) -> tuple[PrunedState, jax.Array]:
        params, opt, masks, count = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt = tx.update(zeroed(grads, masks), opt, params)
        params = zeroed(optax.apply_updates(params, updates), masks)
        params, opt, masks = jax.lax.cond(count == 0, prune, lambda *same: same, params, opt, masks)
        return PrunedState(params, opt, masks, count + 1), value

    return step


def zeroed(params: Params, masks: dict[str, jax.Array]) -> Params:
    """The tree with the entries outside the masks set to zero."""

    def kernel(layer: str) -> jax.Array:
        values = params[layer]["kernel"]
        return jnp.where(pruning.unpack(masks[layer], values.shape), values, 0)

    return {layer: leaves | {"kernel": kernel(layer)} for layer, leaves in params.items()}


def zeroed_adam(opt: Any, masks: dict[str, jax.Array]) -> Any:
    """Adam's state with both moments so treated."""
    adam, *rest = opt
    return (adam._replace(mu=zeroed(adam.mu, masks), nu=zeroed(adam.nu, masks)), *rest)


def full_masks(params: Params) -> dict[str, jax.Array]:
    """Packed masks under which every kernel is whole."""
    return {
        layer: pruning.pack(jnp.ones_like(leaves["kernel"], dtype=bool))
        for layer, leaves in params.items()
    }


def tied_and_rounded(
    loss: MeanLoss, format: quantization.Format, *, missing: str, source: str
) -> MeanLoss:
    """The loss of weights of which one layer is used twice and every kernel is on its grid.

    Args:
        loss: The loss as a function of all layers.
        format: The grid of the kernels.
        missing: The layer that is not stored.
        source: The layer that stands in for it.
    """

    def seen_loss(params: Params, batch: Any) -> jax.Array:
        seen = {
            layer: leaves | {"kernel": quantization.round_to_grid(leaves["kernel"], format)}
            for layer, leaves in params.items()
        }
        return loss(seen | {missing: seen[source]}, batch)

    return seen_loss
