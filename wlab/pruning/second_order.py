"""SparseGPT on one matrix: weights go row by row, and later ones take over what they did."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wlab.calibration.compensating import Row, compensated
from wlab.pruning.patterns import Neighbours, Pattern, chosen_rows

Kernel = Float[Array, "inputs outputs"]
Square = Float[Array, "inputs inputs"]
Round = Callable[[Row, Any], Row]  # of a row and its place in the matrix


class Solved(NamedTuple):
    """A matrix that was pruned.

    Attributes:
        kernel: Zero where the mask is False; the others have changed.
        mask: What stayed.
        loss: ‖X(W − Ŵ)‖², summed over the calibration rows (with the damping, if any).
    """

    kernel: Kernel
    mask: Bool[Array, "inputs outputs"]
    loss: Float[Array, ""]


def solve(
    kernel: Kernel,
    gram: Square,
    factor: Square,
    pattern: Pattern,
    *,
    block: int = 128,
    round: Round = lambda row, place: row,
) -> Solved:
    """Prunes the rows of a matrix in order; each pruned weight is made up for by later rows.

    A block's mask is chosen when the work comes to it, by w² / U_ii², of N:M groups when it comes
    to the group; see `calibration.compensated` for how rows make up for others.

    Args:
        kernel: Weights, in float32.
        gram: XᵀX of the inputs; rows of inputs that are never there become zero.
        factor: `calibration.inverse_factor(gram)`.
        pattern: Which entries compete; of a density, those of a block of rows.
        block: Rows that are chosen together and applied to later rows at once.
        round: Of a row and its place: the values of those that stay, on the grid of a quantized
            format. Later rows make up for what this loses, too.

    Reference:
        Frantar & Alistarh 2023 (arXiv:2301.00774), algorithm 1; section 3.5 for `round`.
    """

    def look(rows: Kernel, scale: Float[Array, " inputs"], start: Any) -> tuple[Array, Array]:
        first = 0 if isinstance(pattern, Neighbours) else start  # groups are alike everywhere
        mask = chosen_rows(pattern, (rows / scale[:, None]) ** 2, first)
        return mask, start + jnp.arange(len(rows))

    def decide(row: Row, found: tuple[Array, Array], i: Array) -> Row:
        mask, places = found
        return jnp.where(mask[i], round(row, places[i]), 0)

    unit = pattern.of if isinstance(pattern, Neighbours) else block
    kernel = jnp.where((jnp.diagonal(gram) > 0)[:, None], kernel, 0)
    new, (mask, _), loss = compensated(kernel, factor, look, decide, unit=unit, block=block)
    return Solved(new, mask, loss)
