"""SparseGPT: prunes a trained network, and lets the weights that stay make up for it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab import calibration, tree
from wlab.calibration import (
    Batches,
    Gram,
    Report,
    by_inputs,
    damped_factor,
    energy,
    refuse_bad_damping,
)
from wlab.pruning.patterns import Pattern
from wlab.pruning.second_order import Solved, solve
from wlab.transform import Params


class SparseGPT(NamedTuple):
    """A pruned network.

    Attributes:
        params: The tree, as `params` but for its values.
        losses: ‖X(W − Ŵ)‖² / ‖XW‖² of each leaf that was pruned, by path.
    """

    params: Params
    losses: dict[str, float]


def sparsegpt(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[Pattern | None],
    *,
    damping: float = 0.01,
    block: int = 128,
    stages: Sequence[str] = (".*",),
    report: Report = lambda stage, done: None,
) -> SparseGPT:
    """Zeroes weights row by row, and changes later ones so that outputs move least.

    Works on any function of parameters and inputs, as `wanda`. Needs XᵀX of every leaf of a
    stage, in float32, at once.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`; read once a stage.
        rules: As of `wanda`.
        damping: Added to the diagonal of XᵀX, as a part of its mean. If that has still no inverse,
            ten times as much is tried, with a warning, up to 1.
        block: Rows that are chosen together.
        stages: As of `wanda`.
        report: As of `wanda`.

    Raises:
        ValueError: As `wanda`, if XᵀX of a leaf has no inverse with any damping, or `block` is
            below 1.
        TypeError: As `wanda`.

    Reference:
        Frantar & Alistarh 2023 (arXiv:2301.00774).
    """
    refuse_bad_damping(damping, block, purpose="sparsegpt")

    def change(path: str, matrix: Array, seen: Gram, pattern: Pattern) -> tuple[Array, float]:
        if not bool(jnp.any(seen.products != 0)):
            raise ValueError(f"sparsegpt: all inputs of {path!r} are zero in this data.")
        matrices = matrix.reshape(-1, *matrix.shape[-2:]).astype(jnp.float32)
        grams = seen.products.reshape(-1, *seen.products.shape[-2:])
        found, lost, had = [], 0.0, 0.0
        for kernel, gram in zip(matrices, grams, strict=True):
            factor = damped_factor(gram, damping, path=path, purpose="sparsegpt")
            solved = _solve(kernel, gram, factor, pattern=pattern, block=block)
            found.append(solved.kernel)
            lost += float(energy(kernel - solved.kernel, gram))
            had += float(energy(kernel, gram))
        new = jnp.stack(found).reshape(matrix.shape).astype(matrix.dtype)
        return new, lost / had if had else 0.0

    pruned, losses = by_inputs(
        *(fn, params, batches, rules, calibration.gram(), change),
        stages=stages,
        report=report,
        purpose="sparsegpt",
    )
    return SparseGPT(pruned, losses)


@partial(jax.jit, static_argnames=("pattern", "block"))
def _solve(kernel: Array, gram: Array, factor: Array, *, pattern: Pattern, block: int) -> Solved:
    return solve(kernel, gram, factor, pattern, block=block)
