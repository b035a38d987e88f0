"""A decoder in the manner of LLaMA: rotary positions, grouped queries, gated units, a cache."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wlab.models.block import attend
from wlab.models.layers import Embed, Initializer, Linear, RMSNorm, normal
from wlab.models.model import Model, from_nnx
from wlab.models.rotary import Layout, refuse_layout, rotate


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder.

    Attributes:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Query heads; divides `width`.
        kv_heads: Key and value heads; divides `heads`.
        ffn: Hidden units of the gated part.
        vocab: Number of tokens.
        context: Longest sequence it was trained for, tokens.
        rope_base: The base of the rotary angles.
        epsilon: Added to the mean square in the norms.
        tied: Whether the head is the embedding; else it is stored apart.
        rotary: Which entries of queries and keys are turned together.
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

    def __post_init__(self) -> None:
        refuse_layout(self.rotary)
        for name, of in (("heads", "width"), ("kv_heads", "heads")):
            part, whole = getattr(self, name), getattr(self, of)
            if whole % part:
                raise ValueError(f"{of} ({whole}) must be a multiple of {name} ({part}).")


class Cache(NamedTuple):
    """Keys and values of the tokens read so far.

    Attributes:
        k: Keys, already turned.
        v: Values.
        length: How many places are filled, the same for each row.
        pads: How many of them, at the start of each row, hold no token.
    """

    k: Float[Array, "layers batch context kv_heads size"]
    v: Float[Array, "layers batch context kv_heads size"]
    length: Int[Array, ""]
    pads: Int[Array, " batch"]


class _View(NamedTuple):
    """What attention may look at: the places of the queries, which keys each sees."""

    places: Int[Array, "batch time"]
    seen: Bool[Array, "batch time keys"]


class _Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, *, linear: Linear):
        size = config.width // config.heads
        self.q = linear(config.width, config.heads * size)
        self.k = linear(config.width, config.kv_heads * size)
        self.v = linear(config.width, config.kv_heads * size)
        self.o = linear(config.heads * size, config.width)
        self.size = size
        self.turn = partial(rotate, base=config.rope_base, layout=config.rotary)

    def __call__(
        self, x: Array, view: _View, past: tuple[Array, Array, Array] | None
    ) -> tuple[Array, tuple[Array, Array]]:
        q, k, v = (
            layer(x).reshape(*x.shape[:2], -1, self.size) for layer in (self.q, self.k, self.v)
        )
        q, k = self.turn(q, view.places), self.turn(k, view.places)
        if past is not None:
            old_k, old_v, at = past
            k = jax.lax.dynamic_update_slice_in_dim(old_k, k.astype(old_k.dtype), at, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(old_v, v.astype(old_v.dtype), at, axis=1)
        return self.o(attend(q, k, v, view.seen).reshape(*x.shape[:2], -1)), (k, v)


class _Block(nnx.Module):
    def __init__(self, config: LlamaConfig, *, linear: Linear):
        self.norm_1 = RMSNorm(config.width, epsilon=config.epsilon)
        self.attn = _Attention(config, linear=linear)
        self.norm_2 = RMSNorm(config.width, epsilon=config.epsilon)
        self.gate, self.up = (linear(config.width, config.ffn) for _ in range(2))
        self.down = linear(config.ffn, config.width)

    def __call__(
        self, x: Array, view: _View, past: tuple[Array, Array, Array] | None
    ) -> tuple[Array, tuple[Array, Array]]:
        heard, kept = self.attn(self.norm_1(x), view, past)
        x = x + heard
        y = self.norm_2(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y)), kept


class Llama(nnx.Module):
    """Tokens to the logits of each next token."""

    def __init__(self, config: LlamaConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, use_bias=False, kernel_init=kernel_init, rngs=rngs)
        self.embed = Embed(config.vocab, config.width, init=kernel_init, rngs=rngs)
        self.layers = config.layers
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
        view = _view(tokens, cache)
        x, kept = self.embed(tokens), []
        for i in range(self.layers):
            past = None if cache is None else (cache.k[i], cache.v[i], cache.length)
            x, kv = getattr(self, f"block_{i}")(x, view, past)
            kept.append(kv)
        x = self.norm(x)
        logits = self.head(x) if hasattr(self, "head") else x @ self.embed.embedding[...].T
        if cache is None:
            return logits
        k, v = (jnp.stack(each) for each in zip(*kept, strict=True))
        return logits, Cache(k, v, cache.length + tokens.shape[1], cache.pads)


def _view(tokens: Int[Array, "batch time"], cache: Cache | None) -> _View:
    time = tokens.shape[1]
    at = jnp.arange(time)
    if cache is None:
        return _View(jnp.broadcast_to(at, tokens.shape), jnp.tri(time, dtype=bool)[None])
    at = at + cache.length
    keys = jnp.arange(cache.k.shape[2])
    places = jnp.maximum(at[None] - cache.pads[:, None], 0)
    held = (keys[None] >= cache.pads[:, None])[:, None]
    itself = keys[None] == at[:, None]  # also a pad sees something, lest it become NaN
    seen = (keys[None] <= at[:, None])[None] & held | itself[None]
    return _View(places, seen)


def llama(config: LlamaConfig, *, kernel_init: Initializer = normal(0.02)) -> Model:  # noqa: B008
    """A decoder: `apply(params, tokens) -> logits` of each position's next token.

    With `cache=`, from `empty_cache`, it reads on where the cache ends and returns
    `(logits, cache)`.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels and the table.

    Reference:
        Touvron et al. 2023 (arXiv:2302.13971), §2.2; Ainslie et al. 2023 (arXiv:2305.13245):
        grouped queries; Shazeer 2020 (arXiv:2002.05202), eq. 6: gated units.
    """
    return from_nnx(lambda rngs: Llama(config, kernel_init=kernel_init, rngs=rngs))


def empty_cache(
    config: LlamaConfig,
    batch: int,
    *,
    length: int = 0,
    pads: Int[Array, " batch"] | None = None,
    dtype: jnp.dtype = jnp.float32,  # pyright: ignore[reportArgumentType]
) -> Cache:
    """A cache with room for `length` tokens a row, or for the whole context.

    Args:
        config: The sizes.
        batch: Number of rows.
        length: Places a row; 0 stands for `config.context`.
        pads: How many tokens at the start of each row are padding.
        dtype: Of keys and values.
    """
    size = config.width // config.heads
    shape = (config.layers, batch, length or config.context, config.kv_heads, size)
    pads = jnp.zeros(batch, jnp.int32) if pads is None else pads
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0), pads)
