"""A transformer block: attention, then a feed-forward part, each added to its input."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from wlab.models.cache import Kept, Past, extended
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
        return self.read(x, self.seen(x.shape[1], mask))[0]

    def seen(self, time: int, mask: Bool[Array, "batch time"] | None) -> Bool[Array, "#batch t t"]:
        """Which positions each position sees."""
        seen = jnp.tri(time, dtype=bool)[None] if self.causal else jnp.ones((1, time, time), bool)
        return seen if mask is None else seen & mask[:, None]

    def read(
        self,
        x: Float[Array, "batch time width"],
        seen: Bool[Array, "#batch time keys"],
        past: Past | None = None,
    ) -> tuple[Float[Array, "batch time width"], Kept]:
        """Reads what is seen, of the past too if there is one; also returns keys and values."""
        q, k, v = (
            layer(x).reshape(*x.shape[:-1], self.heads, -1) for layer in (self.q, self.k, self.v)
        )
        k, v, kept = extended(past, k, v)
        return self.o(attend(q, k, v, seen).reshape(x.shape)), kept


def attend(
    q: Float[Array, "batch time heads size"],
    k: Float[Array, "batch keys kv_heads size"],
    v: Float[Array, "batch keys kv_heads size"],
    seen: Bool[Array, "#batch time keys"],
    *,
    scale: float | None = None,
    bias: Float[Array, "heads time keys"] | None = None,
) -> Float[Array, "batch time heads size"]:
    r"""$\mathrm{softmax}(sQK^\top + B)V$ over the positions seen, softmax in f32.

    Query heads may outnumber key heads: neighbours then share one.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        seen: Which keys each query sees.
        scale: $s$; None stands for $1/\sqrt{\mathrm{size}}$.
        bias: $B$, for each head; None stands for none.

    Reference:
        Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; Ainslie et al. 2023 (arXiv:2305.13245).
    """
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    grouped = jnp.moveaxis(grouped, 1, 3)  # the order of the logits' axes: those are not moved
    logits = jnp.einsum("bhgqd,bkhd->bhgqk", grouped, k, preferred_element_type=jnp.float32)
    logits = logits / math.sqrt(q.shape[-1]) if scale is None else logits * scale
    if bias is not None:
        logits = logits + bias.reshape(1, *logits.shape[1:]).astype(jnp.float32)
    logits = jnp.where(seen[:, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    mixed = jnp.einsum("bhgqk,bkhd->bhgqd", weights, v)
    return jnp.moveaxis(mixed, 3, 1).reshape(q.shape)


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
        return self.read(x, self.attn.seen(x.shape[1], mask))[0]

    def read(
        self,
        x: Float[Array, "batch time width"],
        seen: Bool[Array, "#batch time keys"],
        past: Past | None = None,
    ) -> tuple[Float[Array, "batch time width"], Kept]:
        """As `Attention.read`, with the rest of the block."""
        heard, kept = self.attn.read(self.norm_1(x) if self.norm_first else x, seen, past)
        if self.norm_first:
            x = x + heard
            return x + self.ffn(self.norm_2(x)), kept
        x = self.norm_1(x + heard)
        return self.norm_2(x + self.ffn(x)), kept
