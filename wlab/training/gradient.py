"""The gradient of the true global mean, over microbatches and devices, in float32 sums."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.graph import channels_last
from wlab.training.state import TrainState
from wlab.transform import Key, Params, WeightTransform

Batch: TypeAlias = Any
Metrics: TypeAlias = dict[str, Any]
LossFn: TypeAlias = Callable[
    [Params, Any, Batch, Key],
    tuple[Float[Array, ""], tuple[Float[Array, ""], Any, Metrics]],
]
Axis: TypeAlias = str | tuple[str, ...]  # the mapped data axis inside shard_map or pmap


class Sums(NamedTuple):
    """Sums over the examples of a batch; `model_state` is the newest one."""

    grads: Params  # of what is stored, or of what is seen if the weight transform asks for those
    loss: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: Metrics
    model_state: Any


def gradient_sums(
    loss_fn: LossFn,
    weights: WeightTransform,
    state: TrainState,
    batch: Batch,
    *,
    accumulate: int,
    axis: Axis | None,
) -> Sums:
    """Sums over this device's share of the batch, one microbatch after another."""
    key = jax.random.fold_in(state.key, state.step)
    stored, model_state = state.stored, state.model_state
    if axis is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    # Varying weights make the gradients local: one explicit sum follows.
    stored, model_state = _vary((stored, model_state), axis)
    seen, pull = jax.vjp(lambda s: _vary(weights.view(s, state.weights, state.step), axis), stored)
    value_and_grad = jax.value_and_grad(_checked(loss_fn), has_aux=True)
    if jax.default_backend() == "cpu":  # a population or `accumulate` puts it into a loop
        value_and_grad = channels_last(value_and_grad)

    def one(model_state: Any, batch: Batch, key: Key) -> Sums:
        (loss, aux), seen_grads = value_and_grad(seen, model_state, batch, key)
        weight, model_state, metrics = aux
        grads = seen_grads if weights.needs_grads else pull(seen_grads)[0]
        if weights.project is not None:
            # No update begins while a weight is still read: else XLA copies the weight.
            grads = jax.lax.optimization_barrier(grads)
        sums = Sums(grads, loss, jnp.float32(weight), metrics, model_state)
        return _vary(sums, axis)

    if accumulate == 1:
        return one(model_state, batch, key)
    return _scan_microbatches(one, model_state, batch, key, count=accumulate, axis=axis)


def refuse_other_arguments(loss_fn: Any) -> None:
    """Checks that a loss takes what it is called with.

    Raises:
        TypeError: If not.
    """
    try:
        inspect.signature(loss_fn).bind(*range(4))
    except TypeError as error:
        raise TypeError(
            f"loss_fn is called as loss_fn(params, model_state, batch, key): {error}."
        ) from None
    except ValueError:  # a callable that does not tell its signature
        return


def _checked(loss_fn: LossFn) -> LossFn:
    """The same loss, which names what it has to return if it returns something else."""

    @functools.wraps(loss_fn)
    def checked(*args: Any) -> Any:
        found = loss_fn(*args)
        if not (_is_tuple(found, 2) and _is_tuple(found[1], 3)):
            raise TypeError(
                "loss_fn returns (loss_sum, (weight, model_state, metrics)), sums over the batch's "
                "examples, as (losses.sum(), (len(losses), model_state, {})); got "
                f"{jax.tree.structure(found)}."
            )
        return found

    return checked


def _is_tuple(x: Any, size: int) -> bool:
    return isinstance(x, tuple | list) and len(x) == size


def _scan_microbatches(
    one: Callable[[Any, Batch, Key], Sums],
    model_state: Any,
    batch: Batch,
    key: Key,
    *,
    count: int,
    axis: Axis | None,
) -> Sums:
    micro = jax.tree.map(lambda x: _split_rows(x, count), batch)
    first = jax.tree.map(lambda x: x[0], micro)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))

    def body(carry: Sums, at: tuple[Batch, Key]) -> tuple[Sums, None]:
        new = one(carry.model_state, *at)
        total = jax.tree.map(_add_f32, carry._replace(model_state=()), new._replace(model_state=()))
        return total._replace(model_state=new.model_state), None

    shapes = jax.eval_shape(one, model_state, first, keys[0])._replace(model_state=())
    zeros = _vary(jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes), axis)
    sums, _ = jax.lax.scan(body, zeros._replace(model_state=model_state), (micro, keys))
    return sums


def _split_rows(x: Array, count: int) -> Array:
    if x.shape[0] % count:
        raise ValueError(
            f"A batch of {x.shape[0]} rows on each device does not split into {count} "
            "microbatches: change the batch size or accumulate."
        )
    # Strided, so that each microbatch is spread over the devices like the batch is.
    return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)


def global_mean(sums: Sums, axis: Axis | None) -> Sums:
    """The mean over all examples of all devices."""
    model_state = sums.model_state
    if axis is not None:
        model_state = jax.tree.map(lambda x: _combine(x, axis), model_state)
        sums = jax.lax.psum(sums._replace(model_state=()), axis)
    weight = jnp.where(sums.weight > 0, sums.weight, 1)

    def mean(x: Array) -> Array:
        return x.astype(jnp.float32) / weight

    return Sums(
        grads=jax.tree.map(mean, sums.grads),
        loss=mean(sums.loss),
        weight=sums.weight,
        metrics=jax.tree.map(mean, sums.metrics),
        model_state=model_state,
    )


def pulled_back(
    grads: Params, weights: WeightTransform, state: TrainState
) -> tuple[Params, Params | None]:
    """The gradients of what is stored, in its dtypes, and of what is seen, if those were kept.

    To pull back is linear, so that once is enough, after all sums.
    """
    stored, seen_grads = state.stored, None
    if weights.needs_grads:
        seen, pull = jax.vjp(lambda s: weights.view(s, state.weights, state.step), stored)
        # The optimizer and the weight transform read them: XLA would compute them for each.
        seen_grads = jax.lax.optimization_barrier(_cast(grads, seen))
        (grads,) = pull(seen_grads)
    return _cast(grads, stored), seen_grads


def _cast(grads: Params, like: Params) -> Params:
    return jax.tree.map(lambda g, x: g.astype(x.dtype), grads, like)


def _vary(tree: Any, axis: Axis | None) -> Any:
    """Marks values as differing between devices, as shard_map's types ask."""
    if axis is None:
        return tree
    axes = axis if isinstance(axis, tuple) else (axis,)

    def vary(x: Array) -> Array:
        missing = tuple(a for a in axes if a not in jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def _combine(x: Array, axis: Axis) -> Array:
    """Statistics are averaged over devices; counts are equal on all of them."""
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.lax.pmean(x, axis) if inexact else jax.lax.pmax(x, axis)


def _add_f32(total: Array, x: Array) -> Array:
    return total + x.astype(jnp.float32)
