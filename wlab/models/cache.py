"""What a decoder has read so far, and what it may look at when it reads on."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Cache(NamedTuple):
    """Keys and values of the tokens read so far.

    Attributes:
        k: Keys; with rotary positions, already turned.
        v: Values.
        length: How many places are filled, the same for each row.
        pads: How many of them, at the start of each row, hold no token.
    """

    k: Float[Array, "layers batch context kv_heads size"]
    v: Float[Array, "layers batch context kv_heads size"]
    length: Int[Array, ""]
    pads: Int[Array, " batch"]


class Past(NamedTuple):
    """One layer's keys and values in a cache, and how many places are filled."""

    k: Float[Array, "batch context kv_heads size"]
    v: Float[Array, "batch context kv_heads size"]
    length: Int[Array, ""]


class View(NamedTuple):
    """What attention may look at: the places of the queries, which keys each sees."""

    places: Int[Array, "batch time"]
    seen: Bool[Array, "#batch time keys"]


@runtime_checkable
class Sizes(Protocol):
    """What a cache must know of a decoder."""

    @property
    def layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        ...

    @property
    def heads(self) -> int:
        """Query heads."""
        ...

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        ...

    @property
    def context(self) -> int:
        """Longest sequence, tokens."""
        ...


def empty_cache(
    config: Sizes,
    batch: int,
    *,
    length: int = 0,
    pads: Int[Array, " batch"] | None = None,
    dtype: Any = jnp.float32,
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


def view_of(tokens: Int[Array, "batch time"], cache: Cache | None) -> View:
    """Where the tokens stand, and the keys up to each: of these tokens alone, or of the cache.

    Padding takes no place: a row's first token stands at place 0.
    """
    time = tokens.shape[1]
    at = jnp.arange(time)
    if cache is None:
        return View(jnp.broadcast_to(at, tokens.shape), jnp.tri(time, dtype=bool)[None])
    at = at + cache.length
    keys = jnp.arange(cache.k.shape[2])
    places = jnp.maximum(at[None] - cache.pads[:, None], 0)
    held = (keys[None] >= cache.pads[:, None])[:, None]
    itself = keys[None] == at[:, None]  # also a pad sees something, lest it become NaN
    seen = (keys[None] <= at[:, None])[None] & held | itself[None]
    return View(places, seen)


def past_of(cache: Cache | None, layer: int) -> Past | None:
    """What the cache, if there is one, holds for a layer."""
    return None if cache is None else Past(cache.k[layer], cache.v[layer], cache.length)


def extended(past: Past, k: Array, v: Array) -> tuple[Array, Array]:
    """The keys and values of a layer with those of the tokens just read in the next places."""
    at = past.length
    return (
        jax.lax.dynamic_update_slice_in_dim(past.k, k.astype(past.k.dtype), at, axis=1),
        jax.lax.dynamic_update_slice_in_dim(past.v, v.astype(past.v.dtype), at, axis=1),
    )


def advanced(cache: Cache, kept: Sequence[tuple[Array, Array]], *, time: int) -> Cache:
    """The cache after `time` tokens, from each layer's keys and values."""
    k, v = (jnp.stack(each) for each in zip(*kept, strict=True))
    return Cache(k, v, cache.length + time, cache.pads)
