"""GPTQ on one matrix: inputs are rounded in order, and later ones take over what was lost."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from wlab.calibration import compensated
from wlab.quantization.arrays import fitted, quantize_on
from wlab.quantization.blocks import join, split
from wlab.quantization.fits import Parts, outer_scale, read
from wlab.quantization.formats import Format
from wlab.quantization.grids import Fit
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax

Kernel: TypeAlias = Float[Array, "inputs outputs"]
Square: TypeAlias = Float[Array, "inputs inputs"]
Groups = Literal["dynamic", "static"]


class Rounded(NamedTuple):
    """A matrix that was rounded.

    Attributes:
        q: Its codes.
        loss: ‖X(W − Ŵ)‖², summed over the calibration rows (with the damping, if any).
    """

    q: QTensor
    loss: Float[Array, ""]


def activity_order(gram: Square) -> Int[Array, " inputs"]:
    """The inputs from the largest Σx² to the smallest: `act-order`."""
    return jnp.argsort(-jnp.diagonal(gram), stable=True)


def gptq_core(
    kernel: Kernel,
    factor: Square,
    format: Format,
    *,
    order: Int[Array, " inputs"] | None = None,
    groups: Groups = "dynamic",
    block: int = 128,
    range_fn: RangeFn = absmax,
) -> Rounded:
    """Rounds a matrix to a format input by input; each error is made up for by later inputs.

    With XᵀX a multiple of the unit matrix this is `quantize`, code for code. A weight that is zero
    is pruned, and stays zero: what others lose is made up for by the rest.

    Args:
        kernel: Weights, in float32.
        factor: `calibration.inverse_factor(gram)`, of XᵀX in this `order`.
        format: Any; with groups along the inputs, a group's grid may wait for its turn.
        order: In which inputs are rounded; as they stand if None. Grids are then "static".
        groups: "dynamic": a group's grid is fitted to its weights as they are when the work comes
            to it; "static": all are fitted to the weights as they were.
        block: Inputs whose errors are applied to later ones at once.
        range_fn: See `quantize`.

    Reference:
        Frantar et al. 2022 (arXiv:2210.17323), algorithm 1; `order` and static groups as in its
        authors' program.
    """
    along = isinstance(format.group_size, int) and format.axes(2) == (0,)
    if along and groups == "dynamic" and order is None:
        return _with_dynamic_groups(kernel, factor, format, block, range_fn)
    order = jnp.arange(len(kernel)) if order is None else order
    blocks, grids = fitted(kernel, format, range_fn)
    every = jax.tree.map(
        lambda part: join(jnp.broadcast_to(part, blocks.shape), kernel, format)[order],
        (grids.coding, read(grids.parts)),
    )
    every = every, _staying(kernel, format)[order]

    def look(rows: Kernel, scale: Array, first: Any) -> Any:
        del scale
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, len(rows)), every)

    def decide(row: Array, found: Any, i: Array) -> Array:
        fits, stays = jax.tree.map(lambda x: x[i], found)
        return jnp.where(stays, _nearest(format, row, *fits), 0)

    solved = compensated(kernel[order], factor, look, decide, unit=block, block=block)
    back = jnp.zeros_like(kernel).at[order].set(solved.kernel)
    return Rounded(quantize_on(back, grids.parts, format), solved.loss)


def _with_dynamic_groups(
    kernel: Kernel, factor: Square, format: Format, block: int, range_fn: RangeFn
) -> Rounded:
    size = min(format.groups(kernel.shape)[0][1], len(kernel))
    outer = outer_scale(split(kernel, format), format)
    staying = _staying(kernel, format)

    def look(rows: Kernel, scale: Array, first: Any) -> tuple[Fit, Parts, Array]:
        del scale
        stays = lax.dynamic_slice_in_dim(staying, first, len(rows))
        _, grids = fitted(jnp.where(stays, rows, 0), format, range_fn, outer=outer)
        return grids.coding, grids.parts, stays

    def decide(row: Array, found: tuple[Fit, Parts, Array], i: Array) -> Array:
        *fits, stays = found
        coding, parts = jax.tree.map(lambda x: x.reshape(-1), tuple(fits))
        return jnp.where(stays[i], _nearest(format, row, coding, read(parts)), 0)

    solved = compensated(kernel, factor, look, decide, unit=size, block=block)
    _, parts, _ = solved.seen
    return Rounded(quantize_on(solved.kernel, parts._replace(outer=outer), format), solved.loss)


def _staying(kernel: Kernel, format: Format) -> Bool[Array, "inputs outputs"]:
    """Which weights are not pruned; all where the grid has no zero for those that are."""
    return (kernel != 0) | (not format.grid.keeps_zero)


def _nearest(format: Format, row: Array, coding: Fit, stored: Fit) -> Array:
    return format.grid.decode(format.grid.encode(row, coding), stored)
