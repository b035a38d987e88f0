"""SparseGPT: prunes a trained network, and lets the weights that stay make up for it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from wlab import calibration, tree
from wlab.calibration import (
    Batches,
    Finished,
    Gram,
    Report,
    RowGrids,
    Told,
    by_inputs,
    damped_factor,
    energy,
    refuse_bad_damping,
)
from wlab.pruning.budget import Density
from wlab.pruning.patterns import Pattern, PerLeaf, patterned
from wlab.pruning.second_order import Solved, solve
from wlab.transform import Params


class SparseGPT(NamedTuple):
    """A pruned network.

    Attributes:
        params: The tree, as `params` but for its values.
        losses: ‖X(W − Ŵ)‖² / ‖XW‖² of each leaf that was pruned, by path.
        written: What is stored of each of those with a grid, as a matrix of inputs by outputs (or
            a stack of them), by path.
    """

    params: Params
    losses: dict[str, float]
    written: dict[str, Any]


def sparsegpt(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[Pattern | Density | None],
    *,
    grids: tree.Rules[RowGrids | None] = ((".*", None),),
    damping: float = 0.01,
    block: int = 128,
    stages: Sequence[str] = (".*",),
    report: Report = lambda stage, done: None,
    finished: Finished | None = None,
) -> SparseGPT:
    """Zeroes weights row by row, and changes later ones so that outputs move least.

    Works on any function of parameters and inputs, as `wanda`. Needs XᵀX of every leaf of a
    stage, in float32, at once.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        rules: As of `wanda`, but for a density alone, which is `PerLeaf`, as in the paper.
        grids: Ordered `(path regex, grids)`, as `quantization.row_grids(format)`: weights that stay
            are rounded to those in their turn, and later ones make up for that, too. With a
            density of 1 this is GPTQ with static groups. None: no rounding.
        damping: Added to the diagonal of XᵀX, as a part of its mean. If that has still no inverse,
            ten times as much is tried, with a warning, up to 1.
        block: Rows that are chosen together.
        stages: As of `wanda`.
        report: As of `wanda`.
        finished: As of `wanda`.

    Raises:
        ValueError: As `wanda`, if XᵀX of a leaf has no inverse with any damping, or `block` is
            below 1, or `grids` do not fit the tree, name a leaf that is not pruned, or a leaf
            cannot take its own.
        TypeError: As `wanda`.

    Reference:
        Frantar & Alistarh 2023 (arXiv:2301.00774); section 3.5 for `grids`.
    """
    refuse_bad_damping(damping, block, purpose="sparsegpt")
    patterns = patterned(rules, PerLeaf, purpose="sparsegpt")
    grid_of = _grids(grids, patterns, params)

    def change(path: str, matrix: Array, seen: Gram, pattern: Pattern) -> tuple[Array, Any]:
        if not bool(jnp.any(seen.products != 0)):
            raise ValueError(f"sparsegpt: all inputs of {path!r} are zero in this data.")
        matrices = matrix.reshape(-1, *matrix.shape[-2:]).astype(jnp.float32)
        grams = seen.products.reshape(-1, *seen.products.shape[-2:])
        _refuse_unfit(grid_of[path], matrices[0], path)
        options = {"pattern": pattern, "block": block, "grids": grid_of[path]}
        found, stored, lost, had = [], [], 0.0, 0.0
        for kernel, gram in zip(matrices, grams, strict=True):
            factor = damped_factor(gram, damping, path=path, purpose="sparsegpt")
            solved, written = _solve(kernel, gram, factor, **options)
            found.append(solved.kernel)
            stored.append(written)
            lost += float(energy(kernel - solved.kernel, gram))
            had += float(energy(kernel, gram))
        new = jnp.stack(found).reshape(matrix.shape).astype(matrix.dtype)
        stack = stored[0] if matrix.ndim == 2 else jax.tree.map(_stacked, *stored)
        return new, (lost / had if had else 0.0, stack)

    def read(path: str, old: Array, new: Array, arrays: Any, pattern: Pattern) -> tuple[float, Any]:
        del pattern
        pairs = zip(*(x.reshape(-1, *x.shape[-2:]) for x in (old, new)), strict=True)
        stored = [_written(*pair, grids=grid_of[path]) for pair in pairs]
        stack = stored[0] if old.ndim == 2 else jax.tree.map(_stacked, *stored)
        return float(arrays["loss"]), stack

    pruned, told = by_inputs(
        *(fn, params, batches, patterns, calibration.gram(), change),
        stages=stages,
        report=report,
        finished=finished,
        told_in=Told(("loss",), lambda told: {"loss": np.float64(told[0])}, read),
        asked=(damping, block, grid_of),
        purpose="sparsegpt",
    )
    losses = {path: loss for path, (loss, _) in told.items()}
    written = {path: of for path, (_, of) in told.items() if grid_of[path] is not None}
    return SparseGPT(pruned, losses, written)


@partial(jax.jit, static_argnames=("pattern", "block", "grids"))
def _solve(
    kernel: Array,
    gram: Array,
    factor: Array,
    *,
    pattern: Pattern,
    block: int,
    grids: RowGrids | None,
) -> tuple[Solved, Any]:
    if grids is None:
        return solve(kernel, gram, factor, pattern, block=block), None
    grid = grids(kernel)
    solved = solve(kernel, gram, factor, pattern, block=block, round=grid.round)
    return solved, grid.write(solved.kernel)


@partial(jax.jit, static_argnames="grids")
def _written(kernel: Array, solved: Array, *, grids: RowGrids | None) -> Any:
    """What the grids of a kernel store of it once it is solved."""
    if grids is None:
        return None
    return grids(kernel.astype(jnp.float32)).write(solved.astype(jnp.float32))


def _grids(
    grids: tree.Rules[RowGrids | None], rules: tree.Rules[Pattern | None], params: Params
) -> dict[str, RowGrids | None]:
    """The grids of each leaf, by path."""
    patterns = tree.resolve(rules, params, purpose="sparsegpt")
    found = tree.resolve(grids, params, purpose="sparsegpt, grids")
    for path, of in found.items():
        if of is not None and not patterns[path]:
            raise ValueError(
                f"sparsegpt: {path!r} has grids and no pattern; give it one, PerLeaf(1.0) if all "
                "of its weights are to stay, or no grids."
            )
    return found


def _refuse_unfit(grids: RowGrids | None, kernel: Array, path: str) -> None:
    try:
        if grids is not None:
            jax.eval_shape(lambda x: grids(x).write(x), kernel)
    except ValueError as error:
        raise ValueError(f"sparsegpt: the grids of {path!r}: {error}") from None


def _stacked(*parts: Array) -> Array:
    return jnp.stack(parts)
