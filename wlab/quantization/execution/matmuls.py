"""A product with quantized weights as they are: dequantized whole, or tile by tile."""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.graph import Product
from wlab.quantization.arrays import decode, dequantize
from wlab.quantization.packing import plane
from wlab.quantization.qtensor import QTensor

LARGEST_TILE = 256  # inputs: the tile's weights in float32 stay in a core's cache
LEAST_TILED = 1 << 20  # weights: below it a dequantized copy costs next to nothing


def weight_only(product: Product, least_tiled: int = LEAST_TILED) -> Array:
    """A product with a QTensor: what the function computes from the dequantized leaf.

    On a CPU, where XLA would write the whole dequantized matrix to memory, a large one is read
    tile by tile; then sums are taken in another order, in float32.
    """
    q: QTensor = product.weight
    if jax.default_backend() == "cpu" and prod(q.shape) >= least_tiled and is_kernel(product):
        rows = tile_rows(q)
        if rows:
            return product.result(tiled_matmul(product.rows, q, rows))
    return product.apply(weight=dequantize(q))


def is_kernel(product: Product) -> bool:
    """Whether the QTensor is a matrix of inputs by outputs in its own axes, all of it used."""
    use, q = product.use, product.weight
    rank = len(use.view.shape)
    return (
        use.primitive == "dot_general"
        and len(q.shape) == 2
        and use.in_axes == (rank - 2,)
        and use.out_axes == (rank - 1,)
        and not (use.batch or use.view.repeats)
        and prod(use.view.sizes) == prod(q.shape)
    )


def tile_rows(q: QTensor) -> int:
    """Inputs in a tile of a matrix, so that tiles are alike and no group is cut; 0 if none are."""
    inputs = q.shape[0]
    unit = dict(q.format.groups(q.shape)).get(0, 1)
    sizes = range(unit, min(LARGEST_TILE, inputs // 2) + 1, unit)
    return max((size for size in sizes if inputs % size == 0), default=0)


def tiled_matmul(x: Float[Array, "m k"], q: QTensor, rows: int) -> Float[Array, "m n"]:
    """x W in float32, dequantizing `rows` inputs of W at a time: no copy of W is made.

    Where a byte holds several outputs of one input, those at one place of all bytes are one
    product, and only results are put in order: weights would take several times as long.

    Args:
        x: Rows of inputs.
        q: W, inputs by outputs, packed along its outputs.
        rows: Inputs of a tile, as from `tile_rows`.
    """
    tiles, planes = q.shape[0] // rows, planes_of(q)
    parts = {"codes": q.codes, "scale": q.scale, "zero_point": q.zero_point}
    cut = {k: v for k, v in parts.items() if v is not None and v.shape[0] > 1}
    cut = {k: v.reshape(tiles, v.shape[0] // tiles, v.shape[1]) for k, v in cut.items()}

    def add(sums: list[Array], given: tuple[Array, dict[str, Array]]) -> tuple[list[Array], None]:
        part, now = given
        weights = _weights(replace(q, **now), planes)
        products = (
            jnp.dot(part, w.astype(x.dtype), preferred_element_type=jnp.float32) for w in weights
        )
        return [one + more for one, more in zip(sums, products, strict=True)], None

    by_tile = x.reshape(x.shape[0], tiles, rows).transpose(1, 0, 2)
    none = [jnp.zeros((x.shape[0], q.length // planes), jnp.float32)] * planes
    sums = jax.lax.scan(add, none, (by_tile, cut))[0]
    return jnp.stack(sums, axis=-1).reshape(x.shape[0], q.length)


def planes_of(q: QTensor) -> int:
    """Outputs in a byte of a matrix, if each has its own codes and scales there; else 1."""
    bits, format = q.format.grid.bits, q.format
    whole = bits in (1, 2, 4) and q.length % (8 // bits) == 0
    return 8 // bits if whole and all(axis == 0 for axis, _ in format.groups(q.shape)) else 1


def _weights(tile: QTensor, planes: int) -> list[Array]:
    """The weights of a tile, those at each place of a byte apart."""
    if planes == 1:
        return [dequantize(tile)]

    def own(part: Array | None, at: int) -> Array | None:
        return part if part is None or part.shape[-1] == 1 else part[..., at::planes]

    bits, order = tile.format.grid.bits, tile.format.order
    return [
        decode(
            plane(tile.codes, at, bits, order),
            replace(tile, scale=own(tile.scale, at), zero_point=own(tile.zero_point, at)),
        )
        for at in range(planes)
    ]
