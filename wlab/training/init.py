"""A train state where it belongs: shapes first, then shardings, then one compiled init."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from wlab import tree
from wlab.training.sharding import REPLICATED, SpecRule, state_shardings
from wlab.training.state import TrainState, create_state, refuse_untrainable
from wlab.transform import Key, Params, WeightTransform

_log = logging.getLogger("wlab.training")


def init_state(
    params: Params | Callable[[Key], Params],
    weights: WeightTransform,
    tx: optax.GradientTransformation,
    *,
    key: Key,
    model_state: Any = (),
    ema: bool = False,
    mesh: Mesh | None = None,
    rules: tree.Rules[SpecRule] = ((".*", REPLICATED),),
) -> TrainState:
    """Creates the state at step 0 on its devices. The caller's arrays are copied.

    Statistics of the optimizer that no pruned weight can be told from, such as Adafactor's
    row means, are logged: they are left alone where moments are zeroed.

    Args:
        params: The weights a model sees, or a function of a key that makes them: then each
            device only ever holds its own shard.
        weights: The weight transform; `wlab.identity()` for none.
        tx: Any optax transformation.
        key: The run's key.
        model_state: What the model carries besides weights; whole on every device.
        ema: Whether to keep an average of the stored weights.
        mesh: Where to place the state; the default device if None.
        rules: `(regex, PartitionSpec or fsdp())` for the stored leaves and the frozen ones.

    Raises:
        TypeError: If a leaf is not trainable.
        ValueError: If an array stands at two paths, or a rule does not fit.
    """
    # A tree may be callable too, as every equinox module is; a function is a leaf.
    makes_params = callable(params) and jax.tree_util.all_leaves([params])
    if not makes_params:
        refuse_untrainable(params)

    def create(key: Key, given: Params, model_state: Any) -> TrainState:
        if makes_params:
            key, key_params = jax.random.split(key)
            given = params(key_params)
            refuse_untrainable(given)
        return create_state(given, weights, tx, key=key, model_state=model_state, ema=ema)

    arguments = (key, None if makes_params else params, model_state)
    abstract = jax.eval_shape(create, *arguments)
    if weights.project is not None:
        _report_unmatched(abstract)
    if mesh is None:
        return jax.jit(create)(*arguments)
    seen = jax.eval_shape(weights.view, abstract.stored, abstract.weights, abstract.step)
    shardings = state_shardings(abstract, rules, mesh, seen=seen)
    return jax.jit(create, out_shardings=shardings)(*arguments)


def _report_unmatched(state: TrainState) -> None:
    left = tree.unmatched(state.opt, state.stored)
    if left:
        _log.info(
            "init_state: %d statistics of the optimizer are not shaped as their weight and keep "
            "what pruned weights left in them: %s",
            len(left),
            ", ".join(left[:4]) + (", …" if len(left) > 4 else ""),
        )
