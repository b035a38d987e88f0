"""The grids of a matrix as it was, for what decides it row by row and is not of this package."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.calibration import RowGrid
from wlab.quantization.arrays import fitted, quantize_on
from wlab.quantization.blocks import join
from wlab.quantization.fits import read
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax

Kernel = Float[Array, "inputs outputs"]


def row_grids(format: Format, *, range_fn: RangeFn = absmax) -> Callable[[Kernel], RowGrid]:
    """The values of a format that `pruning.sparsegpt` rounds to while it prunes.

    Grids are fitted to the matrix as it was, whichever of its weights are pruned later: those of
    `gptq_core(groups="static")`. What is stored is a QTensor.

    Args:
        format: Any that keeps zeros, of the leaf as a matrix of inputs by outputs.
        range_fn: See `quantize`.

    Raises:
        ValueError: If the grid has no zero; when called, as `check_leaf`.

    Reference:
        Frantar & Alistarh 2023 (arXiv:2301.00774), section 3.5.
    """
    if not format.grid.keeps_zero:
        raise ValueError(
            f"row_grids: {format} has no zero, which pruned weights are; take a grid that has it, "
            'as int4(), or int4(symmetric=False) with an "integer" zero point.'
        )
    return partial(_fit, format=format, range_fn=range_fn)


def _fit(kernel: Kernel, *, format: Format, range_fn: RangeFn) -> RowGrid:
    check_leaf(kernel, format, "a matrix")
    blocks, grids = fitted(kernel, format, range_fn)
    every = jax.tree.map(
        lambda part: join(jnp.broadcast_to(part, blocks.shape), kernel, format),
        (grids.coding, read(grids.parts)),
    )

    def round(row: Array, place: Any) -> Array:
        coding, stored = jax.tree.map(lambda part: part[place], every)
        return format.grid.decode(format.grid.encode(row, coding), stored)

    def write(found: Kernel) -> QTensor:
        return quantize_on(found, grids.parts, format)

    return RowGrid(round, write)
