"""Weights in the layout that the GPU kernels read: tiles of 128 inputs, contiguous for outputs.

Of a matrix of K inputs by N outputs, tile t has inputs 128 t … 128 t + 127 of every output. At 4
bits the codes of one output in a tile are 16 words; input 16 j + i is nibble j of word i, so that
a nibble's plane is 16 consecutive inputs, and every group size that 16 divides ends with a plane.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

TILE = 128  # inputs
WORDS = 16  # of 32 bits: 8 codes of 4 bits each
PLANES = 8
PLANE = TILE // PLANES


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("codes", "scale"),
    meta_fields=("bits", "inputs", "outputs"),
)
@dataclass(frozen=True)
class Tiles:
    """A symmetric int4 or int8 matrix in tiles: value = (code − 2^(bits − 1)) · scale.

    Attributes:
        codes: int32 of shape (tiles, outputs, 16) at 4 bits; at 8 bits int8 of shape (tiles,
            outputs, 128), with the zero point already subtracted.
        scale: Of shape (tiles, groups in a tile, outputs); what fills up the last tile has zero.
        bits: 4 or 8.
        inputs: K, before it was filled up to whole tiles.
        outputs: N, before it was filled up.
    """

    codes: Any
    scale: Any
    bits: int
    inputs: int
    outputs: int


def tiles(
    codes: UInt8[Array, "k n"],
    scale: Float[Array, "groups n"],
    *,
    bits: int,
    group_size: int,
    multiple: int = 16,
) -> Tiles:
    """Lays out the codes and scales of a matrix, inputs by outputs.

    Args:
        codes: 0 … 2^bits − 1, one a byte.
        scale: Of each group of inputs.
        bits: 4 or 8.
        group_size: 16, 32, 64, or a multiple of 128; the last group may be shorter.
        multiple: Outputs are filled up to a multiple of this.

    Raises:
        ValueError: If bits or the group size are others.
    """
    if bits not in (4, 8):
        raise ValueError(f"Tiles hold 4 or 8 bits, got {bits}.")
    if group_size % TILE and (TILE % group_size or group_size < PLANE):
        raise ValueError(f"Tiles take groups of 16, 32, 64 or 128 · n inputs, got {group_size}.")
    k, n = codes.shape
    count, wide = -(-k // TILE), -(-n // multiple) * multiple
    filled = jnp.pad(codes, ((0, count * TILE - k), (0, wide - n)))
    each = min(group_size, TILE)
    spread = jnp.repeat(scale, group_size // each, axis=0)[: -(-k // each)]
    per_tile = TILE // each
    spread = jnp.pad(spread, ((0, count * per_tile - spread.shape[0]), (0, wide - n)))
    laid = _words(filled, count) if bits == 4 else _bytes(filled, count)
    return Tiles(laid, spread.reshape(count, per_tile, wide), bits, k, n)


def dense(t: Tiles) -> Float[Array, "k n"]:
    """The matrix that the tiles stand for, in float32."""
    count, wide, _ = t.codes.shape
    if t.bits == 4:
        place = jax.lax.broadcasted_iota(jnp.int32, (1, 1, PLANES, 1), 2)
        values = ((t.codes[:, :, None, :] >> (4 * place)) & 15) - 8
        values = values.reshape(count, wide, TILE)
    else:
        values = t.codes.astype(jnp.int32)
    per_tile = t.scale.shape[1]
    grouped = values.reshape(count, wide, per_tile, TILE // per_tile).astype(jnp.float32)
    scaled = grouped * t.scale.astype(jnp.float32).transpose(0, 2, 1)[..., None]
    whole = scaled.reshape(count, wide, TILE).transpose(0, 2, 1).reshape(count * TILE, wide)
    return whole[: t.inputs, : t.outputs]


def _words(codes: Shaped[Array, "k n"], count: int) -> Int[Array, "tiles n 16"]:
    planes = codes.astype(jnp.uint32).reshape(count, PLANES, PLANE, -1).transpose(0, 3, 2, 1)
    place = jax.lax.broadcasted_iota(jnp.uint32, planes.shape, 3)
    words = jnp.sum(planes << (4 * place), axis=-1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.int32)


def _bytes(codes: Shaped[Array, "k n"], count: int) -> Int[Array, "tiles n 128"]:
    signed = (codes.astype(jnp.int32) - 128).astype(jnp.int8)
    return signed.reshape(count, TILE, -1).transpose(0, 2, 1)
