"""SparseGPT on one matrix: weights go row by row, and later ones take over what they did."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wlab.pruning.budget import kept
from wlab.pruning.patterns import Neighbours, Pattern, PerLeaf, PerOutput, column_mask, nm_mask
from wlab.pruning.selection import topk_mask

Kernel = Float[Array, "inputs outputs"]
Square = Float[Array, "inputs inputs"]
Round = Callable[[Float[Array, " outputs"]], Float[Array, " outputs"]]


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


def inverse_factor(gram: Square, damping: float | Float[Array, ""] = 0.01) -> Square:
    """U, upper triangular, with UᵀU the inverse of XᵀX; NaN if that has none.

    Inputs that are never there have a row and a column of the unit matrix.

    Args:
        gram: XᵀX.
        damping: Added to the diagonal, as a part of its mean.
    """
    diagonal = jnp.diagonal(gram)
    added = jnp.where(diagonal > 0, damping * jnp.mean(diagonal), 1)
    # Reversed, a lower factor is an upper one: XᵀX = RRᵀ, and U is the inverse of R.
    lower = jnp.linalg.cholesky((gram + jnp.diag(added))[::-1, ::-1])
    unit = jnp.eye(len(gram), dtype=gram.dtype)
    return jax.scipy.linalg.solve_triangular(lower[::-1, ::-1], unit, lower=False)


def solve(
    kernel: Kernel,
    gram: Square,
    factor: Square,
    pattern: Pattern,
    *,
    block: int = 128,
    round: Round = lambda row: row,
) -> Solved:
    """Prunes the rows of a matrix in order; each pruned weight is made up for by later rows.

    Row i loses e = (w_i − ŵ_i) / U_ii, and every later row j gains −U_ij · e: the least-squares
    answer to that loss among rows not yet decided. A block's mask is chosen when the work comes to
    it, by w² / U_ii², of N:M groups when it comes to the group.

    Args:
        kernel: Weights, in float32.
        gram: XᵀX of the inputs; rows of inputs that are never there become zero.
        factor: `inverse_factor(gram)`.
        pattern: Which entries compete; of a density, those of a block of rows.
        block: Rows that are chosen together and applied to later rows at once.
        round: Applied to each row that is kept: the grid of a quantized format.

    Reference:
        Frantar & Alistarh 2023 (arXiv:2301.00774), algorithm 1.
    """
    inputs, outputs = kernel.shape
    unit = pattern.of if isinstance(pattern, Neighbours) else block
    block = max(unit, block - block % unit)
    kernel = jnp.where((jnp.diagonal(gram) > 0)[:, None], kernel, 0)
    done, masks, loss = [], [], jnp.float32(0)
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        rows = kernel[: stop - start]
        corner = factor[start:stop, start:stop]
        units = range(0, stop - start, unit)
        parts, errors = [], []
        for first in units:
            last = min(first + unit, stop - start)
            scores = (rows / jnp.diagonal(corner)[:, None]) ** 2
            mask = _chosen(pattern, scores[first:last], start + first, outputs)
            rows, error = _through(rows, corner, mask, first, round)
            parts.append(mask)
            errors.append(error)
        error = jnp.concatenate(errors)
        done.append(rows)
        masks.append(jnp.concatenate(parts))
        loss += jnp.sum(error**2)
        kernel = kernel[stop - start :] - factor[start:stop, stop:].T @ error
    return Solved(jnp.concatenate(done), jnp.concatenate(masks), loss)


def _through(
    rows: Kernel, factor: Square, mask: Bool[Array, "unit outputs"], first: int, round: Round
) -> tuple[Kernel, Float[Array, "unit outputs"]]:
    """The block after some of its rows, and the errors of those."""

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, errors = state
        row = rows[first + i]
        new = jnp.where(mask[i], round(row), 0)
        error = (row - new) / factor[first + i, first + i]
        rows = rows - factor[first + i][:, None] * error[None]
        return rows.at[first + i].set(new), errors.at[i].set(error)

    return jax.lax.fori_loop(0, len(mask), step, (rows, jnp.zeros(mask.shape, rows.dtype)))


def _chosen(
    pattern: Pattern, scores: Kernel, start: int, outputs: int
) -> Bool[Array, "unit outputs"]:
    """The mask of the rows from `start` on; densities are met exactly over all blocks."""
    stop = start + len(scores)
    match pattern:
        case PerLeaf(density):
            return topk_mask(scores, kept(stop * outputs, density) - kept(start * outputs, density))
        case PerOutput(density):
            return column_mask(scores, kept(stop, density) - kept(start, density))
        case Neighbours(keep, of, remainder):
            return nm_mask(scores, keep=keep, of=of, axis=0, remainder=remainder)
