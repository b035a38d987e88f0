"""A matrix decided row by row, where rows not yet decided make up for those that are."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Kernel: TypeAlias = Float[Array, "inputs outputs"]
Square: TypeAlias = Float[Array, "inputs inputs"]
Row: TypeAlias = Float[Array, " outputs"]
Look: TypeAlias = Callable[[Kernel, Float[Array, " inputs"], Any], Any]
"""From the rows of a unit as they are when their turn comes, their U_ii, and the first one's
place: what they are decided by, arrays with a leading axis."""
Decide: TypeAlias = Callable[[Row, Any, Any], Row]
"""From a row, what `look` found, and the row's place in the unit: the row as it shall be."""


class RowGrid(NamedTuple):
    """The values that the entries of one matrix may have.

    Attributes:
        round: From a row and its place in the matrix: the row with its nearest values.
        write: From a matrix of such values: what is stored of it.
    """

    round: Callable[[Row, Any], Row]
    write: Callable[[Kernel], Any]


RowGrids: TypeAlias = Callable[[Kernel], RowGrid]
"""From a matrix as it was to the values that it may have."""


class Compensated(NamedTuple):
    """A matrix all of whose rows are decided.

    Attributes:
        kernel: The rows.
        seen: What `look` found, one unit after the other.
        loss: ‖X(W − Ŵ)‖², summed over the calibration rows (with the damping, if any).
    """

    kernel: Kernel
    seen: Any
    loss: Float[Array, ""]


class _Work(NamedTuple):
    rows: Kernel
    errors: Kernel


def compensated(
    kernel: Kernel, factor: Square, look: Look, decide: Decide, *, unit: int, block: int = 128
) -> Compensated:
    """Decides the rows of a matrix in order; each change is made up for by later rows.

    Row i loses e = (w_i − ŵ_i) / U_ii, and every later row j gains −U_ij · e: the least-squares
    answer to that loss among rows not yet decided.

    Args:
        kernel: Weights, in float32.
        factor: `inverse_factor(gram)`.
        look: Called once a unit.
        decide: Called once a row.
        unit: Rows that are looked at together; the last unit may be shorter. A unit as large as
            a block has its place as an int, others as a traced one.
        block: Rows whose errors are applied to later rows at once: whole units, at least one.

    Reference:
        Frantar et al. 2022, GPTQ (arXiv:2210.17323), algorithm 1; Frantar & Alistarh 2023,
        SparseGPT (arXiv:2301.00774), algorithm 1.
    """
    block = max(unit, block - block % unit)
    done, seen, loss = [], [], jnp.float32(0)
    for start in range(0, len(factor), block):
        stop = min(start + block, len(factor))
        corner, later = factor[start:stop, start:stop], factor[start:stop, stop:]
        work, found = _block(kernel[: stop - start], corner, look, decide, start, unit)
        done.append(work.rows)
        seen.extend(found)
        loss += jnp.sum(work.errors**2)
        kernel = kernel[stop - start :] - later.T @ work.errors
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen)
    return Compensated(jnp.concatenate(done), joined, loss)


def _block(
    rows: Kernel, factor: Square, look: Look, decide: Decide, start: int, unit: int
) -> tuple[_Work, list[Any]]:
    """Decides a block, whose first row is `start`, unit by unit."""

    def turn(work: _Work, first: Any, count: int) -> tuple[_Work, Any]:
        part = lax.dynamic_slice_in_dim(work.rows, first, count)
        scale = lax.dynamic_slice_in_dim(jnp.diagonal(factor), first, count)
        found = look(part, scale, start + first)

        def row(i: Array, work: _Work) -> _Work:
            at = first + i
            new = decide(work.rows[at], found, i)
            error = (work.rows[at] - new) / factor[at, at]
            moved = work.rows - factor[at][:, None] * error[None]
            rows = jnp.where(places > at, moved, work.rows)  # what is decided keeps its −0
            return _Work(rows.at[at].set(new), work.errors.at[at].set(error))

        return lax.fori_loop(0, count, row, work), found

    places = jnp.arange(len(rows))[:, None]
    work, found, unit = _Work(rows, jnp.zeros_like(rows)), [], min(unit, len(rows))
    whole, rest = divmod(len(rows), unit)
    if whole == 1:
        work, seen = turn(work, 0, unit)
        found.append(seen)
    else:
        firsts = unit * jnp.arange(whole)
        work, stacked = lax.scan(lambda work, first: turn(work, first, unit), work, firsts)
        found.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked))
    if rest:
        work, seen = turn(work, whole * unit, rest)
        found.append(seen)
    return work, found
