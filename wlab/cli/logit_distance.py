"""How far apart the predictions of one decoder are with two sets of weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Distance(NamedTuple):
    r"""Means over predicted tokens.

    Attributes:
        nats: Negative log-likelihood of the text with the first weights.
        nats_after: With the second ones.
        kl: $\sum_v p(v) \log (p(v) / q(v))$, p of the first weights, nats.
        agreement: The fraction of tokens whose likeliest successor is the same.
        tokens: How many were predicted.
    """

    nats: float
    nats_after: float
    kl: float
    agreement: float
    tokens: int


def logit_distance(
    network: Any, after: Any, tokens: Int[np.ndarray, " length"], *, context: int, batch: int
) -> Distance:
    """Reads a text in windows, as `wlab.pretrained.perplexity`, with both sets of weights at once.

    Args:
        network: A decoder; its own weights are the first.
        after: The second weights, a tree of the same structure.
        tokens: The text, by the network's tokenizer.
        context: Tokens a window.
        batch: Windows at once.

    Raises:
        ValueError: If the text is shorter than a window.
    """
    from wlab.data import windows

    rows = windows(tokens, context)

    @jax.jit
    def compared(
        params: Any, after: Any, rows: Int[Array, "batch window"]
    ) -> Float[Array, "batch context 4"]:
        p, q = (_log_probabilities(network, each, rows) for each in (params, after))
        nats, nats_after = (
            -jnp.take_along_axis(each, rows[:, 1:, None], axis=-1)[..., 0] for each in (p, q)
        )
        kl = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
        agree = (jnp.argmax(p, axis=-1) == jnp.argmax(q, axis=-1)).astype(jnp.float32)
        return jnp.stack([nats, nats_after, kl, agree], axis=-1)

    found = []
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        filled = np.concatenate([part, np.zeros((batch - len(part), context + 1), np.int32)])
        found.append(np.asarray(compared(network.params, after, filled))[: len(part)])
    each = np.concatenate(found).reshape(-1, 4)
    nats, nats_after, kl, agreement = map(float, each.mean(axis=0, dtype=np.float64))
    return Distance(nats, nats_after, kl, agreement, len(each))


def _log_probabilities(network: Any, params: Any, rows: Array) -> Array:
    logits = network.model.apply(params, rows[:, :-1]).astype(jnp.float32)
    return jax.nn.log_softmax(logits, axis=-1)
