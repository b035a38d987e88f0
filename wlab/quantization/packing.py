"""Codes of a few bits in bytes: along the last axis, one little-endian stream of bits.

The first code takes the lowest bits of the first byte, so at 4 bits the low nibble is first;
codes of 3, 5, 6 or 7 bits straddle bytes. Rank and every other axis stay. Work is in int32:
XLA:CPU gets nibble arithmetic on 8-bit integers wrong.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8

from wlab.quantization.blocks import spread


def packed_length(length: int, bits: int) -> int:
    """Bytes that hold `length` codes: only the last one may have bits to spare."""
    return -(-length * bits // 8)


def pack(codes: UInt8[Array, "*lead n"], bits: int) -> UInt8[Array, "*lead m"]:
    """Writes codes below 2^bits into bytes."""
    if bits == 8:
        return codes
    *lead, n = codes.shape
    m = packed_length(n, bits)
    codes = spread(codes, codes.ndim - 1, m if n * bits == m * 8 else 1)
    stream = _to_bits(codes, bits).reshape(*lead, n * bits)
    stream = jnp.pad(stream, [(0, 0)] * len(lead) + [(0, m * 8 - n * bits)])
    return _from_bits(stream.reshape(*lead, m, 8))


def unpack(packed: UInt8[Array, "*lead m"], bits: int, length: int) -> UInt8[Array, "*lead n"]:
    """Reads `length` codes a row."""
    if bits == 8:
        return packed
    *lead, m = packed.shape
    packed = spread(packed, packed.ndim - 1, length if length * bits == m * 8 else 1)
    stream = _to_bits(packed, 8).reshape(*lead, m * 8)
    stream = jax.lax.slice_in_dim(stream, 0, length * bits, axis=len(lead))
    return _from_bits(stream.reshape(*lead, length, bits))


def _to_bits(words: UInt8[Array, "*lead n"], width: int) -> Int32[Array, "*lead n width"]:
    place = jax.lax.broadcasted_iota(jnp.int32, (*words.shape, width), words.ndim)
    return (words[..., None].astype(jnp.int32) >> place) & 1


def _from_bits(stream: Int32[Array, "*lead n width"]) -> UInt8[Array, "*lead n"]:
    place = jax.lax.broadcasted_iota(jnp.int32, stream.shape, stream.ndim - 1)
    return jnp.sum(stream << place, axis=-1, dtype=jnp.int32).astype(jnp.uint8)
