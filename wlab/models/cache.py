"""What a decoder has read so far, and what it may look at when it reads on."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from wlab.models.entries import Entries, empty_entries, put, values_of
from wlab.quantization import Format

Kept: TypeAlias = tuple[Entries, Entries]  # a layer's keys and values


class Cache(NamedTuple):
    """Keys and values of the tokens read so far.

    Attributes:
        k: Keys of each layer, of shape (batch, kv_heads, context, size), or their codes; with
            rotary positions, already turned.
        v: Values, likewise.
        length: How many places are filled, the same for each row.
        pads: How many of them, at the start of each row, hold no token.
    """

    k: tuple[Entries, ...]
    v: tuple[Entries, ...]
    length: Int[Array, ""]
    pads: Int[Array, " batch"]

    @property
    def room(self) -> int:
        """How many places a row has, filled or not."""
        return self.k[0].shape[2]


class Past(NamedTuple):
    """One layer's keys and values in a cache, and how many places are filled."""

    k: Entries
    v: Entries
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
    def kv_heads(self) -> int:
        """Key and value heads."""
        ...

    @property
    def size(self) -> int:
        """Entries of a key or value."""
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
    format: Format | None = None,
) -> Cache:
    """A cache with room for `length` tokens a row, or for the whole context.

    With a format the keys and values of each token are written in few bits as they are met, with
    scales for each token and head, and read back a layer at a time: attention sees rounded ones,
    of the tokens just read too. `int8(axis=-1, scale_dtype="float16")` takes about a quarter of
    float32's bytes; `int4(axis=-1, group_size=32)` about a sixth.

    Args:
        config: The sizes.
        batch: Number of rows.
        length: Places a row; 0 stands for `config.context`.
        pads: How many tokens at the start of each row are padding.
        dtype: Of keys and values, as attention reads them.
        format: Of the codes that keys and values are kept in; None keeps them as they are.

    Raises:
        ValueError: If the format's scales span more than the entries of one token and head.

    Reference:
        Sheng et al. 2023 (arXiv:2303.06865), §5: keys and values in 4 bits by groups; Liu et al.
        2024 (arXiv:2402.02750), §3: what rounding each token's costs keys and values.
    """
    shape = (batch, config.kv_heads, length or config.context, config.size)
    pads = jnp.zeros(batch, jnp.int32) if pads is None else pads
    k, v = (tuple(empty_entries(shape, dtype, format) for _ in range(config.layers)) for _ in "kv")
    return Cache(k, v, jnp.int32(0), pads)


def view_of(tokens: Int[Array, "batch time"], cache: Cache | None, *, window: int = 0) -> View:
    """Where the tokens stand, and the keys up to each: of these tokens alone, or of the cache.

    Padding takes no place: a row's first token stands at place 0. With a window each sees no more
    than so many keys, its own the last of them.
    """
    time = tokens.shape[1]
    at = jnp.arange(time)
    if cache is None:
        return View(jnp.broadcast_to(at, tokens.shape), _up_to(at, at, window)[None])
    at = at + cache.length
    keys = jnp.arange(cache.room)
    places = jnp.maximum(at[None] - cache.pads[:, None], 0)
    held = (keys[None] >= cache.pads[:, None])[:, None]
    itself = keys[None] == at[:, None]  # also a pad sees something, lest it become NaN
    return View(places, _up_to(at, keys, window)[None] & held | itself[None])


def _up_to(
    at: Int[Array, " time"], keys: Int[Array, " keys"], window: int
) -> Bool[Array, "time keys"]:
    before = keys[None] <= at[:, None]
    return before & (keys[None] > at[:, None] - window) if window else before


def past_of(cache: Cache | None, layer: int) -> Past | None:
    """What the cache, if there is one, holds for a layer."""
    if cache is None:
        return None
    return Past(cache.k[layer], cache.v[layer], cache.length)


def extended(past: Past | None, k: Array, v: Array) -> tuple[Array, Array, Kept]:
    """The keys and values of a layer with those of the tokens just read in the next places.

    As attention reads them, and as the cache keeps them. Without a past they are what is given.
    """
    if past is None:
        return k, v, (k, v)
    kept = put(past.k, k, past.length), put(past.v, v, past.length)
    return values_of(kept[0]), values_of(kept[1]), kept


def advanced(cache: Cache, kept: Sequence[Kept], *, time: int) -> Cache:
    """The cache after `time` tokens, from each layer's keys and values."""
    k, v = zip(*kept, strict=True)
    return Cache(k, v, cache.length + time, cache.pads)
