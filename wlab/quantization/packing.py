"""Codes of a few bits in bytes: along the last axis, one stream of bits.

With "low_first" the first code takes the lowest bits of the first byte, so at 4 bits the low
nibble is first; "high_first" is the mirror image, its highest bits. Codes of 3, 5, 6 or 7 bits
straddle bytes. Rank and every other axis stay. Work is in int32: XLA:CPU gets nibble arithmetic
on 8-bit integers wrong.
"""

from math import gcd

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, Shaped, UInt8, UInt16

from wlab.quantization.sharding import spread

ORDERS = ("low_first", "high_first")


def packed_length(length: int, bits: int) -> int:
    """Bytes that hold `length` codes: only the last one may have bits to spare."""
    return -(-length * bits // 8)


def pack(
    codes: UInt8[Array, "*lead n"] | UInt16[Array, "*lead n"], bits: int, order: str = "low_first"
) -> UInt8[Array, "*lead m"]:
    """Writes codes below 2^bits, of 1 to 8 bits or 16, into bytes."""
    if bits == 8:
        return codes
    *lead, n = codes.shape
    m, piece = packed_length(n, bits), gcd(bits, 8)
    codes = spread(codes, codes.ndim - 1, m if n * bits == m * 8 else 1)
    stream = _cut(codes, bits, piece, order).reshape(*lead, n * bits // piece)
    spare = (m * 8 - n * bits) // piece
    stream = jnp.pad(stream, [(0, 0)] * len(lead) + [(0, spare)])
    return _joined(stream.reshape(*lead, m, 8 // piece), piece, order).astype(jnp.uint8)


def unpack(
    packed: UInt8[Array, "*lead m"], bits: int, length: int, order: str = "low_first"
) -> UInt8[Array, "*lead n"] | UInt16[Array, "*lead n"]:
    """Reads `length` codes a row: uint8, or uint16 if they are of 16 bits."""
    if bits == 8:
        return packed
    *lead, m = packed.shape
    piece = gcd(bits, 8)
    packed = spread(packed, packed.ndim - 1, length if length * bits == m * 8 else 1)
    stream = _cut(packed, 8, piece, order).reshape(*lead, m * 8 // piece)
    stream = jax.lax.slice_in_dim(stream, 0, length * bits // piece, axis=len(lead))
    codes = _joined(stream.reshape(*lead, length, bits // piece), piece, order)
    return codes.astype(code_dtype(bits))


def plane(
    packed: UInt8[Array, "*lead m"], at: int, bits: int, order: str = "low_first"
) -> UInt8[Array, "*lead m"]:
    """The code at one place of each byte; of codes of 1, 2 or 4 bits, which a byte holds whole."""
    place = at if order == "low_first" else 8 // bits - 1 - at
    return ((packed.astype(jnp.int32) >> (bits * place)) & (2**bits - 1)).astype(jnp.uint8)


def code_dtype(bits: int) -> str:
    """The unsigned integers that hold one code."""
    return "uint8" if bits <= 8 else "uint16"


def _cut(
    words: Shaped[Array, "*lead n"], width: int, piece: int, order: str
) -> Int32[Array, "*lead n pieces"]:
    """Pieces of the largest size of which both codes and bytes are made: few, so fast."""
    shape = (*words.shape, width // piece)
    return (words[..., None].astype(jnp.int32) >> _places(shape, piece, order)) & (2**piece - 1)


def _joined(
    stream: Int32[Array, "*lead n pieces"], piece: int, order: str
) -> Int32[Array, "*lead n"]:
    return jnp.sum(stream << _places(stream.shape, piece, order), axis=-1, dtype=jnp.int32)


def _places(shape: tuple[int, ...], piece: int, order: str) -> Int32[Array, "*lead n pieces"]:
    place = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    return piece * (place if order == "low_first" else shape[-1] - 1 - place)
