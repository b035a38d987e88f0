"""Sentences to vectors, by an encoder that was trained for it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from wlab.pretrained.networks.network import Network
from wlab.transform import Params

_MULTIPLE = 16  # lengths are rounded up to it, so that few programs are compiled


def sentence_vectors(
    network: Network, texts: Sequence[str], *, batch: int = 32, longest: int = 256
) -> Float32[np.ndarray, "texts width"]:
    """A vector of length 1 a text: the mean of its tokens' states.

    Args:
        network: A BERT encoder with its tokenizer, as `minilm`.
        texts: What to read.
        batch: Texts at once.
        longest: Where texts are cut off, tokens.

    Raises:
        ValueError: If the network has no tokenizer.

    Reference:
        Reimers & Gurevych 2019 (arXiv:1908.10084), §3: mean pooling.
    """
    if network.tokenizer is None:
        raise ValueError("sentence_vectors: the network has no tokenizer.")

    @jax.jit
    def pooled(
        params: Params, tokens: Int[Array, "batch time"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch width"]:
        states = network.model.apply(params, tokens, mask=mask).states.astype(jnp.float32)
        total = jnp.sum(jnp.where(mask[..., None], states, 0), axis=1)
        return total / jnp.linalg.norm(total, axis=-1, keepdims=True)

    rows = [network.tokenizer.encode(text)[:longest] for text in texts]
    vectors = [
        pooled(network.params, *_padded(rows[i : i + batch], batch))[: len(rows) - i]
        for i in range(0, len(rows), batch)
    ]
    return np.concatenate([np.asarray(part) for part in vectors]).astype(np.float32)


def _padded(rows: list[list[int]], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and where they are, in a shape that comes often."""
    time = -(-max(map(len, rows)) // _MULTIPLE) * _MULTIPLE
    tokens, mask = np.zeros((batch, time), np.int32), np.zeros((batch, time), bool)
    mask[:, 0] = True  # rows that only fill up the batch see one token, lest they become NaN
    for row, text in enumerate(rows):
        tokens[row, : len(text)], mask[row, : len(text)] = text, True
    return tokens, mask
