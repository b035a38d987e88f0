"""Knowledge distillation: one network learns what another says."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def distillation_loss(
    logits: Float[Array, "*rows classes"],
    teacher_logits: Float[Array, "*rows classes"],
    *,
    temperature: float = 1.0,
) -> Float[Array, "*rows"]:
    r"""$-T^2 \sum q \log p$ over the classes of each row, in nats and float32.

    p is the softmax of the logits and q that of the teacher's, both divided by T first. The higher
    T is, the more it tells that some wrong classes are likelier than others; $T^2$ keeps the
    gradient as large. A network that knows the labels of its training data by heart still learns
    from a teacher: so does one whose weights are rounded or pruned from what it was before. The
    teacher's logits get no gradient.

    Args:
        logits: Of the network that learns.
        teacher_logits: Of the one that it learns from.
        temperature: T, above 0.

    Raises:
        ValueError: If the temperature is not above 0.

    Reference:
        Hinton et al. 2015 (arXiv:1503.02531), section 2.
    """
    if not temperature > 0:
        raise ValueError(f"distillation_loss: temperature must be above 0, got {temperature}.")
    own, said = (x.astype(jnp.float32) / temperature for x in (logits, teacher_logits))
    said = jax.lax.stop_gradient(jax.nn.softmax(said))
    return temperature**2 * optax.softmax_cross_entropy(own, said)
