"""The train step: one pure function from (state, batch) to (state, metrics).

The order within a step is the heart of the library:

1. look through the view, take the gradient of the true global mean, pull it back;
2. let optax update what is stored;
3. zero the pruned weights with the old masks; let the weight transform choose its new state;
   if it differs, zero weights and moments with the old and with the new masks.

Old masks first, new masks after: so a regrown weight starts at zero with zero moments under
any optimizer. Between two changes of the masks a dead moment may be whatever the optimizer
makes of it: its weight is zeroed at every step.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from wlab import tree
from wlab.training.gradient import (
    Axis,
    Batch,
    LossFn,
    Metrics,
    global_mean,
    gradient_sums,
    pulled_back,
    refuse_other_arguments,
)
from wlab.training.guard import Guard, guarded
from wlab.training.state import TrainState, refuse_swapped
from wlab.transform import Params, WeightTransform

# (state, batch, *, axis=None) -> (state, metrics); `axis` is the mapped one inside shard_map.
Step: TypeAlias = Callable[..., tuple[TrainState, Metrics]]


def make_step(
    loss_fn: LossFn,
    weights: WeightTransform,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    guard: Guard | None = None,
    ema: float | None = None,
) -> Step:
    r"""Builds the pure step. Compile it with `compile_step`, or with `jax.jit` as it is.

    Args:
        loss_fn: `(params, model_state, batch, key) -> (loss_sum, (weight, model_state,
            metrics))`, all sums over the batch's examples. The step divides loss, gradients and
            metrics by the weight summed over microbatches and devices, so padded rows and
            uneven shards still give the gradient of the global mean.
        weights: The weight transform.
        tx: Any optax transformation; clipping and schedules belong here.
        accumulate: Microbatches a step. Rows i, i + n, i + 2n, ... form microbatch i.
        guard: Drop the updates of steps with a NaN or an infinity.
        ema: Decay of the average of the stored weights, in [0, 1); needs a state with `ema`.

    Raises:
        ValueError: If `accumulate < 1` or `ema` is outside [0, 1).
        TypeError: If the loss takes other arguments, or `weights` and `tx` are not what they are
            called; from the step, if the loss returns something else.
    """
    refuse_other_arguments(loss_fn)
    refuse_swapped(weights, tx)
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1 microbatch, got {accumulate}.")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must be a decay in [0, 1), got {ema}.")

    def step(
        state: TrainState, batch: Batch, *, axis: Axis | None = None
    ) -> tuple[TrainState, Metrics]:
        sums = gradient_sums(loss_fn, weights, state, batch, accumulate=accumulate, axis=axis)
        mean = global_mean(sums, axis)
        grads, seen_grads = pulled_back(mean.grads, weights, state)
        updates, opt = tx.update(grads, state.opt, state.stored)
        new = state._replace(
            stored=optax.apply_updates(state.stored, updates),
            opt=opt,
            model_state=mean.model_state,
        )
        metrics = {"loss": mean.loss, **mean.metrics}
        if guard is not None:
            new, metrics["nonfinite"] = guarded(state, new, mean.loss, grads)
        new = _advance(new, seen_grads, weights)
        return _average(new, weights, ema)._replace(step=state.step + 1), metrics

    return step


def _advance(state: TrainState, seen_grads: Params | None, weights: WeightTransform) -> TrainState:
    """Zeroes what the old state drops, updates the state, and then what the new one drops."""
    old, project = state.weights, weights.project
    stored = weights.keep_zeros(state.stored, old)
    if weights.update is None:
        return state._replace(stored=stored)
    new = weights.update(stored, seen_grads, old, state.step)
    if project is None:
        return state._replace(stored=stored, weights=new)

    def clean(stored: Params, opt: Any) -> tuple[Params, Any]:
        opt = tree.matched(lambda copy: project(project(copy, old), new), opt, stored)
        return project(stored, new), opt

    # Moments in the step's own path would be computed and copied twice by XLA.
    stored, opt = jax.lax.cond(
        _differ(old, new), clean, lambda stored, opt: (stored, opt), stored, state.opt
    )
    return state._replace(stored=stored, opt=opt, weights=new)


def _differ(old: Any, new: Any) -> Bool[Array, ""]:
    """Whether any bit of a weight transform's state has changed."""

    def differ(a: Array, b: Array) -> Bool[Array, ""]:
        if a is b:  # handed on, as a frozen base is: not read at every step
            return jnp.bool_(False)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        return jnp.any(a != b)

    return jax.tree.reduce(jnp.logical_or, jax.tree.map(differ, old, new), jnp.bool_(False))


def _average(state: TrainState, weights: WeightTransform, decay: float | None) -> TrainState:
    if (decay is None) != (state.ema is None):
        raise ValueError(
            "make_step(ema=decay) and create_state(ema=True) go together: one of them is missing."
        )
    if decay is None:
        return state
    average = jax.tree.map(
        lambda a, s: decay * a + (1 - decay) * s.astype(jnp.float32), state.ema, state.stored
    )
    return state._replace(ema=weights.keep_zeros(average, state.weights))
