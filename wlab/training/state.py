"""The state of a training run: one value, arrays only, no leaf twice."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from wlab import tree
from wlab.transform import Key, Params, WeightTransform
from wlab.tying import refuse_aliases


class Health(NamedTuple):
    """What the non-finite guard has seen.

    Attributes:
        skipped: Steps whose update was dropped because of a NaN or an infinity.
        consecutive: How many of the latest steps in a row were dropped.
    """

    skipped: Int[Array, "*members"]
    consecutive: Int[Array, "*members"]


class TrainState(NamedTuple):
    """Everything a step reads and writes; a pytree that checkpoints as it stands.

    Attributes:
        step: Optimizer steps done; also the position in the data.
        stored: The weights as stored, before `WeightTransform.view`.
        opt: The optimizer's state.
        weights: The weight transform's state.
        model_state: What the model carries besides weights, such as BatchNorm statistics.
        key: The run's key; step t uses `fold_in(key, t)`.
        ema: The float32 average of `stored`, or None.
        health: The guard's counts.
    """

    step: Int[Array, ""]
    stored: Params
    opt: Any
    weights: Any
    model_state: Any
    key: Key
    ema: Params | None
    health: Health


def create_state(
    params: Params,
    weights: WeightTransform,
    tx: optax.GradientTransformation,
    *,
    key: Key,
    model_state: Any = (),
    ema: bool = False,
) -> TrainState:
    """The state at step 0: pure, so it runs under jit, vmap and eval_shape.

    Args:
        params: What the model sees at step 0.
        weights: The weight transform; `wlab.identity()` for none.
        tx: Any optax transformation. It sees the stored tree.
        key: The run's key.
        model_state: What the model carries besides weights.
        ema: Whether to keep an average of the stored weights.

    Raises:
        TypeError: If `weights` and `tx` are not what they are called.
    """
    refuse_swapped(weights, tx)
    key, key_weights = jax.random.split(key)
    stored, weights_state = weights.init(params, key_weights)
    average = jax.tree.map(lambda x: x.astype(jnp.float32), stored) if ema else None
    return TrainState(
        step=jnp.int32(0),
        stored=stored,
        opt=tx.init(stored),
        weights=weights_state,
        model_state=model_state,
        key=key,
        ema=average,
        health=Health(jnp.int32(0), jnp.int32(0)),
    )


def refuse_swapped(weights: Any, tx: Any) -> None:
    """Checks that wlab's transform comes first, and optax's after it.

    Raises:
        TypeError: If not.
    """
    if isinstance(weights, WeightTransform) and not isinstance(tx, WeightTransform):
        return
    raise TypeError(
        "wlab's transform of weights comes first (wlab.identity() for none), optax's of updates "
        f"after it; got a {type(weights).__name__} and a {type(tx).__name__}."
    )


def refuse_untrainable(params: Params) -> None:
    """Checks what a train step needs of a parameter tree.

    Raises:
        TypeError: If a leaf is not an array of real or complex numbers.
        ValueError: If one array stands at two paths.
    """
    for path, leaf in tree.leaves(params).items():
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"Leaf {path!r} is a {type(leaf).__name__}, not an array: pass only the "
                "parameters, such as equinox.partition(model, equinox.is_inexact_array)[0]."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"Leaf {path!r} is {tree.describe(leaf)} and has no gradient: keep it in "
                "model_state or close the loss function over it."
            )
    refuse_aliases(params)


def params_of(state: TrainState, weights: WeightTransform, *, average: bool = False) -> Params:
    """What the model sees at this step, as fresh arrays that survive the next step.

    Args:
        average: Look through the view at the averaged weights instead of the current ones.

    Raises:
        ValueError: If the average is asked for and the state has none.
    """
    stored = state.stored
    if average:
        if state.ema is None:
            raise ValueError("This state keeps no average: create it with ema=True.")
        stored = jax.tree.map(lambda a, s: a.astype(s.dtype), state.ema, stored)
    return jax.jit(weights.view)(stored, state.weights, state.step)
