"""One network that learns what another says."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def taught_sum(
    logits: Float[Array, "rows classes"],
    teacher: Float[Array, "rows classes"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    r"""$-T^2 \sum q \log p$ over rows and classes, in nats.

    p is of the logits and q of the teacher's, both divided by T. The higher T is, the more it tells
    that some wrong classes are likelier than others; $T^2$ keeps the gradient as large.

    Reference:
        Hinton et al. 2015 (arXiv:1503.02531), section 2.
    """
    said = jax.nn.softmax(teacher / temperature)
    return temperature**2 * jnp.sum(optax.softmax_cross_entropy(logits / temperature, said))
