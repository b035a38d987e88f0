"""Evaluation: exact means over a data set whose last batch is padded."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.training.gradient import Batch, Metrics
from wlab.transform import Params

MetricFn: TypeAlias = Callable[[Params, Any, Batch], tuple[Float[Array, ""], Metrics]]


def make_evaluate(
    metric_fn: MetricFn,
) -> Callable[[Params, Any, Iterable[Batch]], dict[str, float]]:
    """Builds `evaluate(params, model_state, batches) -> means`.

    Args:
        metric_fn: `(params, model_state, batch) -> (weight, sums)`: sums over the rows of a
            batch, each row times its weight, so padded rows of weight 0 do not count.

    Sums are added in float64 on the host, one batch late, so the device never waits.
    """
    compiled = jax.jit(metric_fn)

    def evaluate(params: Params, model_state: Any, batches: Iterable[Batch]) -> dict[str, float]:
        pending: tuple[Array, Metrics] | None = None
        total, weight = {}, 0.0
        for batch in [*batches, None]:
            current = None if batch is None else compiled(params, model_state, batch)
            if pending is not None:
                weight += float(pending[0])
                for name, value in pending[1].items():
                    total[name] = total.get(name, 0.0) + float(value)
            pending = current
        if weight == 0:
            raise ValueError("evaluate: no batch, or no row of positive weight.")
        return {name: value / weight for name, value in total.items()}

    return evaluate


def cross_entropy_sums(logits: Float[Array, "rows classes"], labels: Any, weight: Any) -> Metrics:
    """Weighted sums over the rows of the cross-entropy in nats and of the errors.

    Args:
        logits: One row an example.
        labels: Integer class of each row.
        weight: 1 for an example, 0 for padding.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    nll = -jnp.take_along_axis(log_p, labels[:, None].astype(jnp.int32), axis=1)[:, 0]
    wrong = (jnp.argmax(logits, axis=1) != labels).astype(jnp.float32)
    weight = weight.astype(jnp.float32)
    return {"loss": jnp.sum(nll * weight), "error": jnp.sum(wrong * weight)}
