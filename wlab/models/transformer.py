"""A decoder in the manner of GPT-2: learned positions, norms first, a cache."""

import math
from dataclasses import dataclass
from functools import partial
from typing import overload

from flax import nnx
from jaxtyping import Array, Float, Int

from wlab.models.block import Block
from wlab.models.cache import Cache, advanced, past_of, view_of
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
class TransformerConfig:
    """Sizes of a decoder.

    Attributes:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Attention heads; divides `width`.
        vocab: Number of tokens.
        context: Longest sequence, tokens.
        ffn: Hidden units of the feed-forward part; 0 stands for 4 × `width`.
        biases: Whether norms, and linear layers but the head, have biases.
        tied: Whether the head is the embedding; else it is stored apart.
        epsilon: Added to the variance in the norms.
        activation: Of the feed-forward part.
    """

    layers: int
    width: int
    heads: int
    vocab: int
    context: int
    ffn: int = 0
    biases: bool = True
    tied: bool = False
    epsilon: float = 1e-5
    activation: ActivationName = "gelu_tanh"

    def __post_init__(self) -> None:
        activation_of(self.activation)
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}).")

    @property
    def kv_heads(self) -> int:
        """Key and value heads: each query head has its own."""
        return self.heads

    @property
    def size(self) -> int:
        """Entries of a key or value."""
        return self.width // self.heads


class Decoder(nnx.Module):
    """Tokens to the logits of each next token."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        kernel_init: Initializer,
        residual_init: Initializer,
        rngs: nnx.Rngs,
    ):
        width, biases = config.width, config.biases
        linear = partial(nnx.Linear, use_bias=biases, rngs=rngs)
        norm = partial(LayerNorm, epsilon=config.epsilon, use_bias=biases)
        self.embed = Embed(config.vocab, width, init=kernel_init, rngs=rngs)
        self.position = Embed(config.context, width, init=kernel_init, rngs=rngs)
        self.layers = config.layers
        for i in range(config.layers):
            block = Block(
                width,
                config.heads,
                config.ffn or 4 * width,
                inner=partial(linear, kernel_init=kernel_init),
                outer=partial(linear, kernel_init=residual_init),
                norm=norm,
                activation=activation_of(config.activation),
                causal=True,
                norm_first=True,
            )
            setattr(self, f"block_{i}", block)
        self.norm = norm(width)
        if not config.tied:
            self.head = nnx.Linear(
                width, config.vocab, use_bias=False, kernel_init=kernel_init, rngs=rngs
            )

    @overload
    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]: ...
    @overload
    def __call__(
        self, tokens: Int[Array, "batch time"], *, cache: Cache
    ) -> tuple[Float[Array, "batch time vocab"], Cache]: ...
    def __call__(
        self, tokens: Int[Array, "batch time"], *, cache: Cache | None = None
    ) -> Float[Array, "batch time vocab"] | tuple[Float[Array, "batch time vocab"], Cache]:
        if cache is None:
            x = self.embed(tokens) + positions(self.position, tokens.shape[1])
            for i in range(self.layers):
                x = getattr(self, f"block_{i}")(x)
            return self.logits(x)
        self._refuse_longer(cache)
        view, kept = view_of(tokens, cache), []
        x = self.embed(tokens) + self.position(view.places)
        for i in range(self.layers):
            x, kv = getattr(self, f"block_{i}").read(x, view.seen, past_of(cache, i))
            kept.append(kv)
        return self.logits(x), advanced(cache, kept, time=tokens.shape[1])

    def logits(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time vocab"]:
        """The last norm and the head."""
        x = self.norm(x)
        return self.head(x) if hasattr(self, "head") else x @ self.embed.embedding[...].T

    def _refuse_longer(self, cache: Cache) -> None:
        room, context = cache.room, self.position.embedding.shape[0]
        if room > context:
            raise ValueError(
                f"The cache has room for {room} tokens, the model's context is {context}: shorten "
                "the prompt or draw fewer tokens."
            )


def transformer(
    config: TransformerConfig,
    *,
    kernel_init: Initializer = normal(0.02),  # noqa: B008
    residual_init: Initializer | None = None,
) -> Model:
    r"""A decoder: `apply(params, tokens) -> logits` of each position's next token.

    With `cache=`, from `empty_cache`, it reads on where the cache ends and returns
    `(logits, cache)`. A tied decoder stores what `wlab.tying` stores of an untied one when it ties
    `head/kernel` `(width, vocab)` to `embed/embedding` `(vocab, width)`.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels and tables.
        residual_init: Likewise, for the two kernels of a block that write to the residual stream.
            None stands for GPT-2's normal of deviation $0.02/\sqrt{2 \cdot \mathrm{layers}}$.

    Reference:
        Radford et al. 2019, "Language models are unsupervised multitask learners", §2.3.
    """
    if residual_init is None:
        residual_init = normal(0.02 / math.sqrt(2 * config.layers))
    return from_nnx(
        lambda rngs: Decoder(
            config, kernel_init=kernel_init, residual_init=residual_init, rngs=rngs
        )
    )
