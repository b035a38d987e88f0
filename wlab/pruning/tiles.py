"""Masks of whole tiles: the entries of a small rectangle live and die together."""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Shaped

from wlab.pruning.budget import Count
from wlab.pruning.selection import topk_mask
from wlab.pruning.shards import in_whole_groups, joined_axes, placed_as, split_axis

ShortTiles = Literal["refuse", "share"]


def tile_mask(
    scores: Float[Array, "*batch rows columns"],
    k: Count,
    *,
    shape: tuple[int, int],
    remainder: ShortTiles = "refuse",
) -> Bool[Array, "*batch rows columns"]:
    """True in the `k` tiles with the largest scores, of all matrices together.

    Tiles begin at the first row and column. Ties go to the lower flat index of a tile.

    Args:
        scores: Of each entry; those of a tile are added up as `tile_scores` says.
        k: Tiles kept, clipped to [0, the number of tiles]; may be traced.
        shape: Rows and columns of a tile.
        remainder: Of a matrix that tiles do not divide: an error, or short tiles at its end that
            compete like the others, with the sum of what they have.

    Raises:
        ValueError: If a tile has no entry, or tiles do not divide the matrix and `remainder` is
            "refuse".
        TypeError: If the scores are not float32, bfloat16 or float16.
    """
    refuse_bad_tiles(shape)
    rows, columns = scores.shape[-2:]
    if remainder == "refuse" and (rows % shape[0] or columns % shape[1]):
        raise ValueError(
            f"tile_mask: tiles of {shape[0]} × {shape[1]} do not divide a matrix of {rows} × "
            f'{columns}. Choose another shape, or remainder="share".'
        )
    return whole_tiles(topk_mask(tile_scores(scores, shape), k), scores, shape=shape)


def whole_tiles(
    kept: Bool[Array, "*batch down across"],
    like: Shaped[Array, "*batch rows columns"],
    *,
    shape: tuple[int, int],
) -> Bool[Array, "*batch rows columns"]:
    """The mask of the entries of an array, of what each tile of it is; cut as the array is."""
    *batch, rows, columns = like.shape
    mask = _repeated(_repeated(kept, shape[0], len(batch)), shape[1], len(batch) + 1)
    if mask.shape != like.shape:
        mask = mask[..., :rows, :columns]
    return placed_as(mask, like)


def tile_scores(
    scores: Float[Array, "*batch rows columns"], shape: tuple[int, int]
) -> Float32[Array, "*batch down across"]:
    """Σ s · |s| over each tile: of scores that are not negative, the sum of their squares.

    Entries at −∞ are dead and add nothing; a tile of nothing else is at −∞. A short tile at the
    end of a matrix has what it has. NaN stays NaN.
    """
    tiles = _tiles(scores.astype(jnp.float32), shape, fill=-jnp.inf)
    dead = tiles == -jnp.inf
    sums = jnp.sum(jnp.where(dead, 0, tiles * jnp.abs(tiles)), axis=(-3, -1))
    return jnp.where(jnp.all(dead, axis=(-3, -1)), -jnp.inf, sums)


def tile_sums(
    values: Shaped[Array, "*batch rows columns"], shape: tuple[int, int]
) -> Float32[Array, "*batch down across"]:
    """Σ x over each tile, a short one at the end of a matrix of what it has."""
    return jnp.sum(_tiles(values.astype(jnp.float32), shape, fill=0.0), axis=(-3, -1))


def tiles_shape(shape: tuple[int, int], stack: tuple[int, ...]) -> tuple[int, ...]:
    """An array's shape, counted in tiles, with short ones."""
    *batch, rows, columns = stack
    return (*batch, -(-rows // shape[0]), -(-columns // shape[1]))


def number_of_tiles(shape: tuple[int, int], stack: tuple[int, ...]) -> int:
    """How many tiles all matrices of an array have, with short ones."""
    return math.prod(tiles_shape(shape, stack))


def refuse_bad_tiles(shape: tuple[int, int]) -> None:
    """Raises a ValueError if a tile has no entry."""
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"A tile has rows and columns, at least 1 of each; got {shape}.")


def _tiles(
    x: Float[Array, "*batch rows columns"], shape: tuple[int, int], *, fill: float
) -> Float[Array, "*batch down high across wide"]:
    """An axis for the places of tiles and one for those in a tile, of rows and of columns."""
    (high, wide), (*batch, rows, columns) = shape, x.shape
    lacking, first = (-rows % high, -columns % wide), len(batch)
    if any(lacking):
        x = in_whole_groups(in_whole_groups(x, -2, high), -1, wide)
        ends = [*[(0, 0)] * first, *((0, n) for n in lacking)]
        x = jnp.pad(x, ends, constant_values=fill)
    # One axis after the other: explicit mesh axes allow no more in one reshape.
    return split_axis(split_axis(x, first, high), first + 2, wide)


def _repeated(mask: Bool[Array, "*shape"], times: int, axis: int) -> Bool[Array, "*repeated"]:
    """Each entry several times along an axis, without a gather."""
    shape = (*mask.shape[: axis + 1], times, *mask.shape[axis + 1 :])
    return joined_axes(jnp.broadcast_to(jnp.expand_dims(mask, axis + 1), shape), axis)
