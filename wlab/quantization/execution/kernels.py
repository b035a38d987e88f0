"""Few rows times packed weights on a GPU: Pallas kernels that read each packed byte once.

Written for the Triton lowering: every array is a power of two long, nibbles are unpacked from
32-bit words, and sums run in float32. Elsewhere they run in Pallas' interpreter, for tests.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from wlab.quantization.execution.launch import FEW, Launch
from wlab.quantization.execution.tiles import PLANES, TILE, WORDS, Tiles

_MAGIC = 0x4B000000  # the bits of 2^23: a whole number below it may be put in the significand
_SHIFTED = np.array([16.0 ** -(j % 4) for j in range(PLANES)], np.float32)


def by_planes(
    x: Float[Array, "m k"], weight: Tiles, launch: Launch, *, interpret: bool = False
) -> Float[Array, "m n"]:
    """x W in float32, multiplying and adding: for one or two rows.

    Args:
        x: Up to 16 rows.
        weight: Of K inputs by N outputs, in tiles of 4 bits or 8.
        launch: How it is cut up.
        interpret: Without a GPU.
    """
    body = _add_planes if weight.bits == 4 else _add_bytes
    return _run(body, x, weight, launch, interpret)


def by_dots(
    x: Float[Array, "m k"], weight: Tiles, launch: Launch, *, interpret: bool = False
) -> Float[Array, "m n"]:
    """x W in float32 by the matrix units, in x's dtype: for 2 to 16 rows.

    Codes are exact in bfloat16 and float16; scales multiply float32 sums, once a group.

    Args:
        x: Up to 16 rows.
        weight: Of K inputs by N outputs, in tiles of 4 bits or 8.
        launch: How it is cut up; a program has one tile in hand.
        interpret: Without a GPU.
    """
    body = _add_dots if weight.bits == 4 else _add_byte_dots
    rows = jnp.pad(x, ((0, FEW - x.shape[0]), (0, 0)))
    return _run(body, rows, weight, launch, interpret)[: x.shape[0]]


def _run(
    body: Callable[..., Any], x: Array, weight: Tiles, launch: Launch, interpret: bool
) -> Float[Array, "m n"]:
    count, wide, _ = weight.codes.shape
    x = jnp.pad(x, ((0, 0), (0, count * TILE - weight.inputs)))
    planes = PLANES if weight.bits == 4 else 1
    x = x.reshape(x.shape[0], count, planes, TILE // planes)
    if launch.in_place and weight.bits == 4:
        x = x if body is _add_dots else x.astype(jnp.float32)
        x = x * _SHIFTED.astype(x.dtype)[None, None, :, None]
    sums = pl.pallas_call(
        partial(body, launch=launch, steps=count // launch.tiles // launch.splits),
        out_shape=jax.ShapeDtypeStruct((launch.splits, x.shape[0], wide), jnp.float32),
        grid=(wide // launch.outputs, launch.splits),
        compiler_params=triton.CompilerParams(num_warps=launch.warps, num_stages=launch.stages),
        interpret=interpret,
    )(x, weight.codes, weight.scale)
    whole = sums[0] if launch.splits == 1 else jnp.sum(sums, axis=0)
    return whole[:, : weight.outputs]


def _add_planes(x_ref: Any, w_ref: Any, s_ref: Any, o_ref: Any, *, launch: Launch, steps: int):
    rows, per_tile = x_ref.shape[0], s_ref.shape[1]
    mine = pl.ds(pl.program_id(0) * launch.outputs, launch.outputs)
    split = pl.program_id(1)
    shape = (launch.tiles, launch.outputs, WORDS)

    def tiles_of(i: Any) -> Any:
        return pl.ds((split * steps + i) * launch.tiles, launch.tiles)

    def step(i: Any, carry: tuple[Array, tuple[Array, ...]]) -> Any:
        words, sums = carry
        now, parts = tiles_of(i), [jnp.zeros(shape, jnp.float32)] * rows
        ahead = w_ref[tiles_of(jnp.minimum(i + 1, steps - 1)), mine, :]
        halves = (words, words >> 16)
        for j in range(PLANES):
            low = halves[j // 4]
            values = _nibble_in_place(low, j % 4) if launch.in_place else _nibble(words, j)
            for m in range(rows):
                parts[m] += values * x_ref[m, now, j, :].astype(jnp.float32)[:, None, :]
            group, left = divmod((j + 1) * per_tile, PLANES)
            if left == 0:
                scale = s_ref[now, group - 1, mine].astype(jnp.float32)[:, :, None]
                sums = tuple(s + p * scale for s, p in zip(sums, parts, strict=True))
                parts = [jnp.zeros(shape, jnp.float32)] * rows
        return ahead, sums

    none = (jnp.zeros(shape, jnp.float32),) * rows
    _, sums = jax.lax.fori_loop(0, steps, step, (w_ref[tiles_of(0), mine, :], none))
    _store(o_ref, split, mine, sums)


def _add_bytes(x_ref: Any, w_ref: Any, s_ref: Any, o_ref: Any, *, launch: Launch, steps: int):
    rows, per_tile = x_ref.shape[0], s_ref.shape[1]
    mine, size = pl.ds(pl.program_id(0) * launch.outputs, launch.outputs), TILE // per_tile
    split = pl.program_id(1)
    first = split * steps

    def step(i: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        now = pl.ds((first + i) * launch.tiles, launch.tiles)
        for g in range(per_tile):
            part = pl.ds(g * size, size)
            values = w_ref[now, mine, part].astype(jnp.float32)
            scale = s_ref[now, g, mine].astype(jnp.float32)[:, :, None]
            weights = values * scale
            inputs = [x_ref[m, now, 0, part].astype(jnp.float32) for m in range(rows)]
            sums = tuple(s + weights * x[:, None, :] for s, x in zip(sums, inputs, strict=True))
        return sums

    none = jnp.zeros((launch.tiles, launch.outputs, size), jnp.float32)
    _store(o_ref, split, mine, jax.lax.fori_loop(0, steps, step, (none,) * rows))


def _store(o_ref: Any, split: Any, mine: Any, sums: tuple[Array, ...]) -> None:
    for m, s in enumerate(sums):
        o_ref[split, m, mine] = jnp.sum(jnp.sum(s, axis=2), axis=0)


def _add_dots(x_ref: Any, w_ref: Any, s_ref: Any, o_ref: Any, *, launch: Launch, steps: int):
    per_tile, in_place = s_ref.shape[1], launch.in_place
    mine = pl.ds(pl.program_id(0) * launch.outputs, launch.outputs)
    split = pl.program_id(1)
    first = split * steps

    def step(i: Any, sums: Array) -> Array:
        now = first + i
        words, part = w_ref[now, mine, :], jnp.zeros(sums.shape, jnp.float32)
        halves = (words, words >> 16)
        for j in range(PLANES):
            values = _nibble_in_place(halves[j // 4], j % 4) if in_place else _nibble(words, j)
            part += _dot(values.astype(x_ref.dtype), x_ref[:, now, j, :])
            group, left = divmod((j + 1) * per_tile, PLANES)
            if left == 0:
                sums += part * s_ref[now, group - 1, mine].astype(jnp.float32)[:, None]
                part = jnp.zeros(sums.shape, jnp.float32)
        return sums

    none = jnp.zeros((launch.outputs, FEW), jnp.float32)
    sums = jax.lax.fori_loop(0, steps, step, none)
    o_ref[split, :, mine] = sums.T


def _add_byte_dots(x_ref: Any, w_ref: Any, s_ref: Any, o_ref: Any, *, launch: Launch, steps: int):
    per_tile = s_ref.shape[1]
    mine, size = pl.ds(pl.program_id(0) * launch.outputs, launch.outputs), TILE // per_tile
    split = pl.program_id(1)
    first = split * steps

    def step(i: Any, sums: Array) -> Array:
        now = first + i
        for g in range(per_tile):
            part = pl.ds(g * size, size)
            values = w_ref[now, mine, part].astype(jnp.float32).astype(x_ref.dtype)
            scale = s_ref[now, g, mine].astype(jnp.float32)[:, None]
            sums += _dot(values, x_ref[:, now, 0, part]) * scale
        return sums

    none = jnp.zeros((launch.outputs, FEW), jnp.float32)
    sums = jax.lax.fori_loop(0, steps, step, none)
    o_ref[split, :, mine] = sums.T


def _dot(weights: Float[Array, "n k"], rows: Float[Array, "m k"]) -> Float[Array, "n m"]:
    return jax.lax.dot_general(
        weights, rows, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )


def _nibble(words: Int[Array, "..."], j: int) -> Float[Array, "..."]:
    """Code j of each word, less 8: by way of the bits of a float, quicker than a conversion."""
    bits = ((words >> (4 * j)) & 15) | _MAGIC
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - jnp.float32(2**23 + 8)


def _nibble_in_place(words: Int[Array, "..."], j: int) -> Float[Array, "..."]:
    """Code j of 0 … 3, less 8, times 16^j."""
    bits = (words & (15 << (4 * j))) | _MAGIC
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - jnp.float32(2**23 + 8 * 16**j)
