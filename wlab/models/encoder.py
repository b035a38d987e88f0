"""An encoder in the manner of BERT and ALBERT: segment types, norms after each sum, a pooler."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wlab.models.block import Block
from wlab.models.layers import (
    ActivationName,
    Embed,
    Initializer,
    LayerNorm,
    activation_of,
    normal,
    positions,
)
from wlab.models.model import Model, from_nnx


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Attention heads; divides `width`.
        vocab: Number of tokens.
        context: Longest sequence, tokens.
        ffn: Hidden units of the feed-forward part; 0 stands for 4 × `width`.
        types: Number of segment types.
        embed_width: Size of the embeddings. If it is not 0, a layer `project` maps them to
            `width`, as in ALBERT.
        shared: Whether one block, `block_0`, is stored and used `layers` times, as in ALBERT.
        activation: Of the feed-forward part.
        epsilon: Added to the variance in the norms.
    """

    layers: int
    width: int
    heads: int
    vocab: int
    context: int
    ffn: int = 0
    types: int = 2
    embed_width: int = 0
    shared: bool = False
    activation: ActivationName = "gelu"
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        activation_of(self.activation)
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}).")


class Encoded(NamedTuple):
    """What an encoder says of a batch.

    Attributes:
        states: One vector a token.
        pooled: One vector a sequence, from its first token.
    """

    states: Float[Array, "batch time width"]
    pooled: Float[Array, "batch width"]


class Encoder(nnx.Module):
    """Tokens to a vector for each and one for all."""

    def __init__(self, config: EncoderConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        width, embed_width = config.width, config.embed_width or config.width
        linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
        norm = partial(LayerNorm, epsilon=config.epsilon)
        table = partial(Embed, width=embed_width, init=kernel_init, rngs=rngs)
        self.embed = table(config.vocab)
        self.position = table(config.context)
        self.segment = table(config.types)
        self.norm = norm(embed_width)
        if config.embed_width:
            self.project = linear(embed_width, width)
        self.layers, self.factorized = config.layers, bool(config.embed_width)
        self.stored = 1 if config.shared else config.layers
        for i in range(self.stored):
            block = Block(
                width,
                config.heads,
                config.ffn or 4 * width,
                inner=linear,
                outer=linear,
                norm=norm,
                activation=activation_of(config.activation),
                causal=False,
                norm_first=False,
            )
            setattr(self, f"block_{i}", block)
        self.pool = linear(width, width)

    def __call__(
        self,
        tokens: Int[Array, "batch time"],
        *,
        types: Int[Array, "batch time"] | None = None,
        mask: Bool[Array, "batch time"] | None = None,
    ) -> Encoded:
        types = jnp.zeros_like(tokens) if types is None else types
        embedded = self.embed(tokens) + self.segment(types)
        x = self.norm(embedded + positions(self.position, tokens.shape[1]))
        x = self.project(x) if self.factorized else x
        for i in range(self.layers):
            x = getattr(self, f"block_{i % self.stored}")(x, mask)
        return Encoded(x, jnp.tanh(self.pool(x[:, 0])))


def encoder(config: EncoderConfig, *, kernel_init: Initializer = normal(0.02)) -> Model:  # noqa: B008
    """An encoder: `apply(params, tokens, types=None, mask=None) -> Encoded`.

    `types` gives each token's segment (all 0 if None) and `mask` is false for padding. A shared
    encoder stores what `wlab.tying` stores of another one when it shares all its blocks.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels and tables.

    Reference:
        Devlin et al. 2019 (arXiv:1810.04805); Lan et al. 2020 (arXiv:1909.11942), §3.1.
    """
    return from_nnx(lambda rngs: Encoder(config, kernel_init=kernel_init, rngs=rngs))
