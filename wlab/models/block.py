"""A transformer block: attention, then a feed-forward part, each added to its input."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from wlab.models.layers import Activation, Linear, Norm


class Attention(nnx.Module):
    """Multi-head attention: each head reads a mixture of all positions it may see."""

    def __init__(self, width: int, heads: int, *, inner: Linear, outer: Linear, causal: bool):
        self.q, self.k, self.v = inner(width, width), inner(width, width), inner(width, width)
        self.o = outer(width, width)
        self.heads, self.causal = heads, causal

    def __call__(
        self, x: Float[Array, "batch time width"], mask: Bool[Array, "batch time"] | None = None
    ) -> Float[Array, "batch time width"]:
        """Hides the positions where `mask` is false and, if causal, all later ones."""
        time = x.shape[1]
        seen = jnp.tri(time, dtype=bool)[None] if self.causal else jnp.ones((1, time, time), bool)
        if mask is not None:
            seen = seen & mask[:, None]
        q, k, v = (
            layer(x).reshape(*x.shape[:-1], self.heads, -1) for layer in (self.q, self.k, self.v)
        )
        return self.o(attend(q, k, v, seen).reshape(x.shape))


def attend(
    q: Float[Array, "batch time heads size"],
    k: Float[Array, "batch keys kv_heads size"],
    v: Float[Array, "batch keys kv_heads size"],
    seen: Bool[Array, "#batch time keys"],
) -> Float[Array, "batch time heads size"]:
    r"""$\mathrm{softmax}(QK^\top/\sqrt{\mathrm{size}})V$ over the positions seen, softmax in f32.

    Query heads may outnumber key heads: neighbours then share one.

    Reference:
        Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; Ainslie et al. 2023 (arXiv:2305.13245).
    """
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    logits = jnp.einsum("bqhgd,bkhd->bhgqk", grouped, k, preferred_element_type=jnp.float32)
    logits = jnp.where(seen[:, None, None], logits / math.sqrt(q.shape[-1]), -jnp.inf)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("bhgqk,bkhd->bqhgd", weights, v).reshape(q.shape)


class FeedForward(nnx.Module):
    """`down(activation(up(x)))` at each position."""

    def __init__(
        self, width: int, ffn: int, *, inner: Linear, outer: Linear, activation: Activation
    ):
        self.up, self.down = inner(width, ffn), outer(ffn, width)
        self.activation = activation

    def __call__(self, x: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
        return self.down(self.activation(self.up(x)))


class Block(nnx.Module):
    """Normed before each part, as in GPT-2, or after each sum, as in BERT.

    Args:
        inner: Makes the layers that read the residual stream.
        outer: Makes the layers that write to it.
        norm: Makes the norms.
        norm_first: Whether the norms stand before the parts.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        *,
        inner: Linear,
        outer: Linear,
        norm: Norm,
        activation: Activation,
        causal: bool,
        norm_first: bool,
    ):
        self.attn = Attention(width, heads, inner=inner, outer=outer, causal=causal)
        self.ffn = FeedForward(width, ffn, inner=inner, outer=outer, activation=activation)
        self.norm_1, self.norm_2 = norm(width), norm(width)
        self.norm_first = norm_first

    def __call__(
        self, x: Float[Array, "batch time width"], mask: Bool[Array, "batch time"] | None = None
    ) -> Float[Array, "batch time width"]:
        if self.norm_first:
            x = x + self.attn(self.norm_1(x), mask)
            return x + self.ffn(self.norm_2(x))
        x = self.norm_1(x + self.attn(x, mask))
        return self.norm_2(x + self.ffn(x))
