"""An encoder and a decoder in the manner of T5: relative positions, layers without biases."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wlab.models.block import FeedForward, attend
from wlab.models.distances import distance_buckets, refuse_classes
from wlab.models.layers import (
    ActivationName,
    Embed,
    Initializer,
    Linear,
    RMSNorm,
    activation_of,
    normal,
)
from wlab.models.model import Model, from_nnx
from wlab.transform import Key

fan_in: Initializer = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


@dataclass(frozen=True)
class T5Config:
    """Sizes of an encoder and its decoder.

    Attributes:
        layers: Number of blocks of the encoder.
        width: Size of the residual stream.
        heads: Attention heads.
        size: Entries of a head; `heads` × `size` need not be `width`.
        ffn: Hidden units of the feed-forward part.
        vocab: Number of tokens.
        decoder_layers: Number of blocks of the decoder; 0 stands for `layers`.
        buckets: Number of classes of distance.
        longest: The distance, tokens, from which on all belong to one class.
        gated: Whether the feed-forward part is gated, as in version 1.1.
        activation: Of the feed-forward part: `relu` in version 1.0, `gelu_tanh` in 1.1.
        tied: Whether the head is the embedding, as in version 1.0; else it is stored apart.
        scaled: Whether the head reads the states divided by √width; None stands for `tied`.
        epsilon: Added to the mean square in the norms.
    """

    layers: int
    width: int
    heads: int
    size: int
    ffn: int
    vocab: int
    decoder_layers: int = 0
    buckets: int = 32
    longest: int = 128
    gated: bool = False
    activation: ActivationName = "relu"
    tied: bool = True
    scaled: bool | None = None
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        activation_of(self.activation)
        refuse_classes(self.buckets, self.longest)


class _Attention(nnx.Module):
    def __init__(self, config: T5Config, *, linear: Linear, query: Linear):
        inner = config.heads * config.size
        self.q = query(config.width, inner)
        self.k, self.v = linear(config.width, inner), linear(config.width, inner)
        self.o = linear(inner, config.width)
        self.heads = config.heads

    def __call__(self, x: Array, read: Array, seen: Array, bias: Array | None = None) -> Array:
        q, k, v = (
            layer(y).reshape(*y.shape[:2], self.heads, -1)
            for layer, y in ((self.q, x), (self.k, read), (self.v, read))
        )
        return self.o(attend(q, k, v, seen, scale=1.0, bias=bias).reshape(*x.shape[:2], -1))


class _GatedFeedForward(nnx.Module):
    def __init__(self, config: T5Config, *, linear: Linear):
        self.gate, self.up = (linear(config.width, config.ffn) for _ in range(2))
        self.down = linear(config.ffn, config.width)
        self.activation = activation_of(config.activation)

    def __call__(self, x: Array) -> Array:
        return self.down(self.activation(self.gate(x)) * self.up(x))


class _Heard(NamedTuple):
    """What a decoder reads of the encoder."""

    states: Float[Array, "batch keys width"]
    seen: Bool[Array, "batch time keys"]


class _Block(nnx.Module):
    def __init__(self, config: T5Config, *, linear: Linear, query: Linear, decoder: bool):
        width, ffn = config.width, config.ffn
        attention = partial(_Attention, config, linear=linear, query=query)
        norm = partial(RMSNorm, width, epsilon=config.epsilon)
        self.norm_1, self.attn = norm(), attention()
        if decoder:
            self.norm_cross, self.cross = norm(), attention()
        self.norm_2 = norm()
        if config.gated:
            self.ffn = _GatedFeedForward(config, linear=linear)
        else:
            activation = activation_of(config.activation)
            self.ffn = FeedForward(width, ffn, inner=linear, outer=linear, activation=activation)

    def __call__(self, x: Array, seen: Array, bias: Array, heard: _Heard | None) -> Array:
        y = self.norm_1(x)
        x = x + self.attn(y, y, seen, bias)
        if heard is not None:
            x = x + self.cross(self.norm_cross(x), heard.states, heard.seen)
        return x + self.ffn(self.norm_2(x))


class _Stack(nnx.Module):
    """Blocks, all with the same biases of distance, and a last norm."""

    def __init__(
        self,
        config: T5Config,
        *,
        layers: int,
        linear: Linear,
        query: Linear,
        decoder: bool,
        rngs: nnx.Rngs,
    ):
        init = normal(1 / math.sqrt(config.width))
        self.position = Embed(config.buckets, config.heads, init=init, rngs=rngs)
        self.layers = layers
        for i in range(layers):
            block = _Block(config, linear=linear, query=query, decoder=decoder)
            setattr(self, f"block_{i}", block)
        self.norm = RMSNorm(config.width, epsilon=config.epsilon)
        self.classes = partial(
            distance_buckets, buckets=config.buckets, longest=config.longest, causal=decoder
        )

    def __call__(self, x: Array, seen: Array, heard: _Heard | None = None) -> Array:
        time = x.shape[1]
        bias = self.position(jnp.asarray(self.classes(time, time))).transpose(2, 0, 1)
        for i in range(self.layers):
            x = getattr(self, f"block_{i}")(x, seen, bias, heard)
        return self.norm(x)


class T5(nnx.Module):
    """Tokens to read and those written so far to the logits of each next one."""

    def __init__(self, config: T5Config, *, kernel_init: Initializer, rngs: nnx.Rngs):
        def small(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
            return kernel_init(key, shape, dtype) / math.sqrt(config.size)

        linear = partial(nnx.Linear, use_bias=False, kernel_init=kernel_init, rngs=rngs)
        query = partial(nnx.Linear, use_bias=False, kernel_init=small, rngs=rngs)
        stack = partial(_Stack, config, linear=linear, query=query, rngs=rngs)
        self.embed = Embed(config.vocab, config.width, init=normal(1.0), rngs=rngs)
        self.encoder = stack(layers=config.layers, decoder=False)
        self.decoder = stack(layers=config.decoder_layers or config.layers, decoder=True)
        if not config.tied:
            self.head = linear(config.width, config.vocab)
        scaled = config.tied if config.scaled is None else config.scaled
        self.scale = 1 / math.sqrt(config.width) if scaled else 1.0

    def __call__(
        self,
        tokens: Int[Array, "batch keys"],
        *,
        targets: Int[Array, "batch time"],
        mask: Bool[Array, "batch keys"] | None = None,
    ) -> Float[Array, "batch time vocab"]:
        (batch, keys), time = tokens.shape, targets.shape[1]
        held = jnp.ones((batch, keys), bool) if mask is None else mask
        states = self.encoder(
            self.embed(tokens), jnp.broadcast_to(held[:, None], (batch, keys, keys))
        )
        heard = _Heard(states, jnp.broadcast_to(held[:, None], (batch, time, keys)))
        x = self.decoder(self.embed(targets), jnp.tri(time, dtype=bool)[None], heard)
        x = x * self.scale
        return self.head(x) if hasattr(self, "head") else x @ self.embed.embedding[...].T


def t5(config: T5Config, *, kernel_init: Initializer = fan_in) -> Model:
    r"""Reads and writes: `apply(params, tokens, targets=, mask=None) -> logits`.

    `tokens` are read from both sides; `mask` is false where they are padding, of which a row may
    not be full. `targets` are what was written so far, behind the token that begins a text (0,
    the padding, in published networks); the logits at each are those of the next.

    Attention does not divide by $\sqrt{\mathrm{size}}$: the kernels of queries start smaller by it.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels.

    Reference:
        Raffel et al. 2020 (arXiv:1910.10683), §2.1; Shazeer 2020 (arXiv:2002.05202), eq. 6: the
        gated units of version 1.1; Press & Wolf 2017 (arXiv:1608.05859): the tied head.
    """
    return from_nnx(lambda rngs: T5(config, kernel_init=kernel_init, rngs=rngs))
