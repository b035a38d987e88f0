"""From a QTensor and its uses to the layout that a product of 8 bits or a kernel reads."""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab.graph import Graph, Use, products, to_matrix
from wlab.graph.entries import leading
from wlab.quantization.execution.fp8 import DTYPES, Fp8Rows, fp8_rows
from wlab.quantization.execution.tiles import TILE, Tiles, tiles
from wlab.quantization.execution.w8a8 import Int8Rows, int8_rows
from wlab.quantization.grids import Integers
from wlab.quantization.packing import unpack
from wlab.quantization.qtensor import QTensor
from wlab.quantization.scales import load


def can_stay(graph: Graph, path: str, q: QTensor) -> bool:
    """Whether all that the function does with a leaf are products, which codes can take part in.

    Where a loop runs over its first axes, or the function takes one position of them, the codes
    are cut likewise, so every child needs those axes.
    """
    met = {use.site for (name, _), use in products(graph).items() if name == path}
    uses = graph.of(path)
    return bool(uses) and all(use.site in met and _can_be_cut(use, q) for use in uses)


def _can_be_cut(use: Use, q: QTensor) -> bool:
    view = use.view
    if not view.exact or view.stack != tuple(range(len(view.stack))):
        return False
    first = len(view.stack) + len(leading(view))
    children = [x for x in (q.codes, q.scale, q.zero_point, q.outer) if x is not None]
    if first == 0:
        return True
    alike = all(x.shape[:first] == q.shape[:first] for x in children)
    named = q.format.axis if isinstance(q.format.axis, tuple) else (q.format.axis,)
    return alike and all(axis is None or first - len(q.shape) <= axis < 0 for axis in named)


def can_be_rows(graph: Graph, path: str, q: QTensor) -> bool:
    """Whether a leaf's products can be made of integers: codes with scales that span inputs."""
    grid = q.format.grid
    return isinstance(grid, Integers) and grid.symmetric and _spans_inputs(graph, path, q)


def can_be_fp8(graph: Graph, path: str, q: QTensor) -> bool:
    """Whether a leaf's products can be made of 8-bit floats: with one scale an output."""
    known, grouped = q.format.grid in DTYPES, q.format.groups(q.shape)
    return known and not grouped and _spans_inputs(graph, path, q)


def _spans_inputs(graph: Graph, path: str, q: QTensor) -> bool:
    uses = graph.of(path)
    if q.outer is not None:
        return False
    if not uses or any(use.in_axes != uses[0].in_axes for use in uses):
        return False
    return all(_is_matrix(use) for use in uses) and q.format.axes(len(q.shape)) == uses[0].in_axes


def _is_matrix(use: Use) -> bool:
    inputs, outputs = use.in_axes, use.out_axes
    roles = [*use.view.stack, *inputs, *outputs]
    return (
        use.primitive == "dot_general"
        and not use.batch
        and use.view.is_whole
        and use.view.exact
        and sorted(roles) == list(range(len(use.view.shape)))
    )


def can_be_tiles(graph: Graph, path: str, q: QTensor) -> bool:
    """Whether a kernel can read a leaf: as `can_be_rows`, with groups that fit its tiles."""
    if not can_be_rows(graph, path, q):
        return False
    sizes = [size for _, size in q.format.groups(q.shape)]
    return all(size % TILE == 0 or size in (16, 32, 64) for size in sizes)


def rows_of_leaf(use: Use, q: QTensor, level: Array | None) -> Int8Rows | Fp8Rows:
    """The codes of a leaf, outputs by inputs; of integers with a scale for each group of inputs."""
    if not isinstance(q.format.grid, Integers):
        return _fp8_rows_of_leaf(use, q, level)
    matrix, scales, size = _matrix_of(use, q)
    short = scales.shape[-2] * size - matrix.shape[-2]
    filled = jnp.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, short), (0, 0)])
    laid = int8_rows(filled, scales, _levels(level, matrix))
    return Int8Rows(laid.codes, laid.scale, laid.level, matrix.shape[-2])


def _fp8_rows_of_leaf(use: Use, q: QTensor, level: Array | None) -> Fp8Rows:
    bits, (scales, _) = to_matrix(use, q.codes), _scales_of(use, q)
    return fp8_rows(bits, scales, q.format.grid, _levels(level, bits))


def _levels(level: Array | None, matrix: Array) -> Array | None:
    return None if level is None else jnp.broadcast_to(jnp.float32(level), matrix.shape[:-2])


def tiles_of_leaf(use: Use, q: QTensor) -> Tiles:
    """The codes of a leaf in tiles of 4 bits, or of 8 if it has more than 4."""
    matrix, scales, size = _matrix_of(use, q)
    bits = 4 if q.format.grid.bits <= 4 else 8
    codes = (matrix + 2 ** (bits - 1)).astype(jnp.uint8)
    if q.format.scale_dtype == "float16":
        scales = scales.astype(jnp.float16)
    size = size if q.format.groups(q.shape) else -(-size // TILE) * TILE
    lay = partial(tiles, bits=bits, group_size=size)
    for _ in matrix.shape[:-2]:
        lay = jax.vmap(lay)
    return lay(codes, scales)


def _matrix_of(use: Use, q: QTensor) -> tuple[Array, Array, int]:
    """Codes less their zero point, inputs by outputs; scales, groups by outputs; the group size."""
    grid = q.format.grid
    codes = unpack(q.codes, grid.bits, q.length, q.format.order).astype(jnp.int32)
    return to_matrix(use, codes - 2 ** (grid.bits - 1)), *_scales_of(use, q)


def _scales_of(use: Use, q: QTensor) -> tuple[Array, int]:
    """Scales, groups by outputs; the group size."""
    groups = dict(q.format.groups(q.shape))
    scale, size = load(q.scale, q.format.scale_dtype), prod(q.shape[i] for i in use.in_axes)
    if groups:
        ((axis, size),) = groups.items()
        scale = jnp.repeat(scale, size, axis=axis)
        scale = jax.lax.slice_in_dim(scale, 0, q.shape[axis], axis=axis)
    return to_matrix(use, jnp.broadcast_to(scale, q.shape))[..., ::size, :], size
