"""Mixed precision as a wrapper of the loss: stored weights keep their dtype."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.training.gradient import Batch, LossFn, Metrics
from wlab.transform import Key, Params


@dataclass(frozen=True)
class Precision:
    """The dtypes inside a loss function.

    Attributes:
        compute: Weights and inexact inputs are cast to it before the forward pass.
        output: The loss is cast to it.
    """

    compute: Any = jnp.bfloat16
    output: Any = jnp.float32

    def wrap(self, loss_fn: LossFn) -> LossFn:
        """The same loss, computed at this precision; gradients come back in the weights' dtype."""

        def wrapped(
            params: Params, model_state: Any, batch: Batch, key: Key
        ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Any, Metrics]]:
            cast, inputs = _cast(params, self.compute), _cast(batch, self.compute)
            loss, (weight, new, metrics) = loss_fn(cast, model_state, inputs, key)
            same = jax.tree.map(lambda n, o: n.astype(o.dtype), new, model_state)
            return loss.astype(self.output), (weight, same, metrics)

        return wrapped


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree
    )
