"""How well a decoder foretells a text."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wlab.data import windows
from wlab.pretrained.networks.network import Network
from wlab.transform import Params


class Surprise(NamedTuple):
    """What a text costs a model.

    Attributes:
        nats: Mean negative log-likelihood of a predicted token.
        tokens: How many were predicted.
    """

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """e to the power of the mean: among how many tokens the model seems to guess."""
        return math.exp(self.nats)


def perplexity(
    network: Network,
    tokens: Sequence[int] | Int[np.ndarray, " length"],
    *,
    context: int = 512,
    batch: int = 4,
    report: Callable[[int], None] = lambda done: None,
) -> Surprise:
    r"""Reads the text in windows and predicts each token from those before it in its window.

    $\exp(-\frac{1}{n}\sum_t \log p(x_t \mid x_{<t}))$. A window is `context` tokens, each of which
    foretells the next; the last one's next begins the next window. So every token but the first
    is predicted once; what is left at the end is dropped.

    Args:
        network: A decoder.
        tokens: The text, by the network's tokenizer.
        context: Tokens a window.
        batch: Windows at once.
        report: Called with the number of tokens read so far.

    Raises:
        ValueError: If the text is shorter than a window, or a token is not in the vocabulary.
    """
    tokens = np.asarray(tokens, np.int32)
    vocab = network.config.vocab
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab:
        raise ValueError(
            f"perplexity: tokens are in [0, {vocab}), got {tokens.min()} to {tokens.max()}."
        )
    rows = windows(tokens, context)

    @jax.jit
    def nats(params: Params, rows: Int[Array, "batch window"]) -> Float[Array, "batch context"]:
        logits = network.model.apply(params, rows[:, :-1]).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    found = []
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        filled = np.concatenate([part, np.zeros((batch - len(part), context + 1), np.int32)])
        found.append(np.asarray(nats(network.params, filled))[: len(part)])
        report(context * (i + len(part)))
    costs = np.concatenate(found)
    return Surprise(float(costs.mean(dtype=np.float64)), costs.size)
