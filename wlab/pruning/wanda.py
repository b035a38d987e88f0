"""Wanda: weights times the size of their inputs, in one pass over some data and no training."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import calibration, tree
from wlab.calibration import Batches, Finished, Report, Squares, by_inputs
from wlab.pruning.budget import Density
from wlab.pruning.patterns import Pattern, PerOutput, chosen, patterned
from wlab.transform import Params


def wanda_scores(
    kernel: Float[Array, "*batch inputs outputs"], squares: Float[Array, "*batch inputs"]
) -> Float[Array, "*batch inputs outputs"]:
    """|W| times the norm of each input: |W_ij| · √(Σ x_i²).

    Reference:
        Sun et al. 2023 (arXiv:2306.11695), equation 1.
    """
    return jnp.abs(kernel).astype(jnp.float32) * jnp.sqrt(squares)[..., None]


def wanda(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[Pattern | Density | None],
    *,
    stages: Sequence[str] = (".*",),
    report: Report = lambda stage, done: None,
    finished: Finished | None = None,
) -> Params:
    """Zeroes the weights that matter least for the inputs that they get.

    The others stay as they are. Works on any function of parameters and inputs: which axes of a
    leaf are inputs is read from it. Weights in scans are scored layer by layer.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        rules: Ordered `(path regex, pattern)`: `PerOutput(0.5)`, `Neighbours(keep=2, of=4)`,
            `PerLeaf(0.5)`, or None for leaves that are left alone; 0.5 is `PerOutput(0.5)`, as in
            the paper.
        stages: Path regexes, in the order in which the function comes to the leaves. The leaves
            of a stage are scored by inputs that earlier stages have already changed, as Wanda
            does it block by block; by default all at once, in one pass.
        report: Called with a stage and the number of its batches done.
        finished: Keeps the stages that are done, as `checkpoint.finished_in(folder)`: a run that
            was cut off goes on behind them.

    Raises:
        ValueError: If the rules do not fit the tree, a rule gives a pattern to a leaf that is in no
            product or is no matrix there, the stages miss a leaf or have none, a leaf gets no
            inputs but zeros, or as `calibration.collect`.
        TypeError: If the batches are no list, a batch is no tuple, or a rule says something else.

    Reference:
        Sun et al. 2023 (arXiv:2306.11695).
    """
    pruned, _ = by_inputs(
        *(fn, params, batches, patterned(rules, PerOutput, purpose="wanda")),
        *(calibration.squares(), _change),
        stages=stages,
        report=report,
        finished=finished,
        purpose="wanda",
    )
    return pruned


def _change(path: str, matrix: Array, seen: Squares, pattern: Pattern) -> tuple[Array, None]:
    if not bool(jnp.any(seen.sums > 0)):
        raise ValueError(
            f"wanda: all inputs of {path!r} are zero in this data: nothing ranks its weights."
        )
    return _zeroed(matrix, seen.sums, pattern=pattern), None


@partial(jax.jit, static_argnames="pattern")
def _zeroed(matrix: Array, squares: Array, *, pattern: Pattern) -> Array:
    return jnp.where(chosen(pattern, wanda_scores(matrix, squares)), matrix, 0)
