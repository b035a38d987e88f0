"""One network that learns what another says."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def taught_sum(
    logits: Float[Array, "rows classes"], teacher: Float[Array, "rows classes"]
) -> Float[Array, ""]:
    r"""$-\sum q \log p$ over rows and classes, in nats: p of the logits, q of the teacher's.

    Reference:
        Hinton et al. 2015 (arXiv:1503.02531), temperature 1.
    """
    return jnp.sum(optax.softmax_cross_entropy(logits, jax.nn.softmax(teacher)))
