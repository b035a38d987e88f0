"""A decoder in the manner of GPT-2: learned positions, norms first, an untied head."""

import math
from dataclasses import dataclass
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from wlab.models.block import Block
from wlab.models.layers import Embed, Initializer, LayerNorm, normal, positions
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
    """

    layers: int
    width: int
    heads: int
    vocab: int
    context: int
    ffn: int = 0
    biases: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}).")


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
        norm = partial(LayerNorm, epsilon=1e-5, use_bias=biases)
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
                activation=jax.nn.gelu,
                causal=True,
                norm_first=True,
            )
            setattr(self, f"block_{i}", block)
        self.norm = norm(width)
        self.head = nnx.Linear(
            width, config.vocab, use_bias=False, kernel_init=kernel_init, rngs=rngs
        )

    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]:
        x = self.embed(tokens) + positions(self.position, tokens.shape[1])
        for i in range(self.layers):
            x = getattr(self, f"block_{i}")(x)
        return self.head(self.norm(x))


def transformer(
    config: TransformerConfig,
    *,
    kernel_init: Initializer = normal(0.02),  # noqa: B008
    residual_init: Initializer | None = None,
) -> Model:
    r"""A decoder: `apply(params, tokens) -> logits` of each position's next token.

    The head is always stored: tying it is `wlab.tying`'s work, which makes one leaf of
    `head/kernel` `(width, vocab)` and `embed/embedding` `(vocab, width)`.

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
