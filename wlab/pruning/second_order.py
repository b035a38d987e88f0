"""SparseGPT on one matrix: weights go row by row, and later ones take over what they did."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from wlab.pruning.patterns import Neighbours, Pattern, chosen_rows

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
    unit = pattern.of if isinstance(pattern, Neighbours) else block
    block = max(unit, block - block % unit)
    kernel = jnp.where((jnp.diagonal(gram) > 0)[:, None], kernel, 0)
    done, masks, loss = [], [], jnp.float32(0)
    for start in range(0, len(factor), block):
        stop = min(start + block, len(factor))
        corner, later = factor[start:stop, start:stop], factor[start:stop, stop:]
        rows, mask, errors = _block(kernel[: stop - start], corner, pattern, start, unit, round)
        done.append(rows)
        masks.append(mask)
        loss += jnp.sum(errors**2)
        kernel = kernel[stop - start :] - later.T @ errors
    return Solved(jnp.concatenate(done), jnp.concatenate(masks), loss)


_Block = tuple[Kernel, Bool[Array, "inputs outputs"], Kernel]  # its rows, their mask, their errors


def _block(
    rows: Kernel, factor: Square, pattern: Pattern, start: int, unit: int, round: Round
) -> _Block:
    """Prunes a block, `unit` rows of which are chosen at once; `start` is its first row."""

    def choose(first: Any, count: int, block: _Block) -> _Block:
        rows, mask, errors = block
        part = lax.dynamic_slice_in_dim(rows, first, count)
        scale = lax.dynamic_slice_in_dim(jnp.diagonal(factor), first, count)
        stay = chosen_rows(pattern, (part / scale[:, None]) ** 2, start)
        mask = lax.dynamic_update_slice_in_dim(mask, stay, first, 0)
        return lax.fori_loop(first, first + count, prune, (rows, mask, errors))

    def prune(i: Array, block: _Block) -> _Block:
        rows, mask, errors = block
        new = jnp.where(mask[i], round(rows[i]), 0)
        error = (rows[i] - new) / factor[i, i]
        rows = rows - factor[i][:, None] * error[None]
        return rows.at[i].set(new), mask, errors.at[i].set(error)

    unit = min(unit, len(rows))
    whole, rest = divmod(len(rows), unit)
    block = (rows, jnp.zeros(rows.shape, bool), jnp.zeros_like(rows))
    block = lax.fori_loop(0, whole, lambda u, block: choose(u * unit, unit, block), block)
    return choose(whole * unit, rest, block) if rest else block
