"""A decoder in the manner of LLaMA: rotary positions, grouped queries, gated units, a cache."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import overload

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from wlab.models.block import attend
from wlab.models.cache import Cache, Kept, Past, View, advanced, extended, past_of, view_of
from wlab.models.layers import Embed, Initializer, Linear, RMSNorm, normal
from wlab.models.model import Model, from_nnx
from wlab.models.rotary import Layout, refuse_layout, rotate


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder.

    Attributes:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Query heads; divides `width`, unless `head_size` is given.
        kv_heads: Key and value heads; divides `heads`.
        ffn: Hidden units of the gated part.
        vocab: Number of tokens.
        context: Longest sequence it was trained for, tokens.
        rope_base: The base of the rotary angles.
        epsilon: Added to the mean square in the norms.
        tied: Whether the head is the embedding; else it is stored apart.
        rotary: Which entries of queries and keys are turned together.
        head_size: Entries of a query, key or value; 0 stands for `width` / `heads`.
        rope_factors: What the rotary angles are divided by, one for each pair; empty for nothing.
        qkv_bias: Whether queries, keys and values have biases, as Qwen2's.
        qk_norm: Whether each query and key is normed before it is turned, as Qwen3's.
        window: How many tokens each sees, itself the last, as in Mistral's first; 0 stands for all.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    rope_base: float = 10_000.0
    epsilon: float = 1e-5
    tied: bool = True
    rotary: Layout = "halves"
    head_size: int = 0
    rope_factors: tuple[float, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        refuse_layout(self.rotary)
        for name, of in (("heads", "width"), ("kv_heads", "heads")):
            part, whole = getattr(self, name), getattr(self, of)
            if whole % part and not (name == "heads" and self.head_size):
                raise ValueError(f"{of} ({whole}) must be a multiple of {name} ({part}).")
        if len(self.rope_factors) not in (0, self.size // 2):
            raise ValueError(
                f"rope_factors has {len(self.rope_factors)} numbers, a head has {self.size // 2} "
                "pairs."
            )

    @property
    def size(self) -> int:
        """Entries of a query, key or value."""
        return self.head_size or self.width // self.heads


class _Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, *, linear: Callable[..., nnx.Linear]):
        size, of_three = config.size, partial(linear, use_bias=config.qkv_bias)
        self.q = of_three(config.width, config.heads * size)
        self.k = of_three(config.width, config.kv_heads * size)
        self.v = of_three(config.width, config.kv_heads * size)
        self.o = linear(config.heads * size, config.width)
        if config.qk_norm:
            self.q_norm, self.k_norm = (RMSNorm(size, epsilon=config.epsilon) for _ in "qk")
        self.size = size
        self.turn = partial(
            rotate, base=config.rope_base, layout=config.rotary, factors=config.rope_factors
        )

    def __call__(self, x: Array, view: View, past: Past | None) -> tuple[Array, Kept]:
        q, k, v = (
            layer(x).reshape(*x.shape[:2], -1, self.size) for layer in (self.q, self.k, self.v)
        )
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self.turn(q, view.places), self.turn(k, view.places)
        k, v, kept = extended(past, k, v)
        return self.o(attend(q, k, v, view.seen).reshape(*x.shape[:2], -1)), kept


class _Block(nnx.Module):
    def __init__(self, config: LlamaConfig, *, linear: Linear):
        self.norm_1 = RMSNorm(config.width, epsilon=config.epsilon)
        self.attn = _Attention(config, linear=linear)
        self.norm_2 = RMSNorm(config.width, epsilon=config.epsilon)
        self.gate, self.up = (linear(config.width, config.ffn) for _ in range(2))
        self.down = linear(config.ffn, config.width)

    def __call__(self, x: Array, view: View, past: Past | None) -> tuple[Array, Kept]:
        heard, kept = self.attn(self.norm_1(x), view, past)
        x = x + heard
        y = self.norm_2(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y)), kept


class Llama(nnx.Module):
    """Tokens to the logits of each next token."""

    def __init__(self, config: LlamaConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, use_bias=False, kernel_init=kernel_init, rngs=rngs)
        self.embed = Embed(config.vocab, config.width, init=kernel_init, rngs=rngs)
        self.layers, self.window = config.layers, config.window
        for i in range(config.layers):
            setattr(self, f"block_{i}", _Block(config, linear=linear))
        self.norm = RMSNorm(config.width, epsilon=config.epsilon)
        if not config.tied:
            self.head = linear(config.width, config.vocab)

    @overload
    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]: ...
    @overload
    def __call__(
        self, tokens: Int[Array, "batch time"], *, cache: Cache
    ) -> tuple[Float[Array, "batch time vocab"], Cache]: ...
    def __call__(
        self, tokens: Int[Array, "batch time"], *, cache: Cache | None = None
    ) -> Float[Array, "batch time vocab"] | tuple[Float[Array, "batch time vocab"], Cache]:
        view = view_of(tokens, cache, window=self.window)
        x, kept = self.embed(tokens), []
        for i in range(self.layers):
            x, kv = getattr(self, f"block_{i}")(x, view, past_of(cache, i))
            kept.append(kv)
        x = self.norm(x)
        logits = self.head(x) if hasattr(self, "head") else x @ self.embed.embedding[...].T
        if cache is None:
            return logits
        return logits, advanced(cache, kept, time=tokens.shape[1])


def llama(config: LlamaConfig, *, kernel_init: Initializer = normal(0.02)) -> Model:  # noqa: B008
    """A decoder: `apply(params, tokens) -> logits` of each position's next token.

    With `cache=`, from `empty_cache`, it reads on where the cache ends and returns
    `(logits, cache)`.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels and the table.

    Reference:
        Touvron et al. 2023 (arXiv:2302.13971), §2.2; Ainslie et al. 2023 (arXiv:2305.13245):
        grouped queries; Shazeer 2020 (arXiv:2002.05202), eq. 6: gated units; Yang et al. 2024
        (arXiv:2407.10671), §2.2: biases; Yang et al. 2025 (arXiv:2505.09388), §2: norms;
        Jiang et al. 2023 (arXiv:2310.06825), §2: windows.
    """
    return from_nnx(lambda rngs: Llama(config, kernel_init=kernel_init, rngs=rngs))
