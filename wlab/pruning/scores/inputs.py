"""A score from the inputs that weights get: Wanda's, for any allocation."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.calibration import Batches, refuse_bad_batches
from wlab.graph import Use
from wlab.pruning.scores.score import Score
from wlab.pruning.wanda import wanda_scores
from wlab.transform import Params


def wanda(fn: Callable[..., Any], batches: Batches) -> Score:
    """|W_ij| · √(Σ x_i²), of the weights in products: the ranking of `wanda`.

    A leaf that is in no product with anything that depends on the inputs, or is no matrix there,
    has no score. Runs on the host, not under jit.

    Args:
        fn: Of `params` and the arrays of a batch.
        batches: Tuples of its inputs after `params`; read once a round.

    Raises:
        ValueError: If there is no batch; from the score, as `calibration.collect`.
        TypeError: If the batches are no list, or a batch is no tuple.

    Reference:
        Sun et al. 2023 (arXiv:2306.11695), equation 1.
    """
    refuse_bad_batches(batches, "wanda")

    def score(params: Params) -> dict[str, Float[Array, "..."]]:
        uses = _matrices(graph.read(fn, params, *batches[0]))
        seen = calibration.collect(
            *(fn, params, batches, calibration.squares()), where=lambda use: use.path in uses
        )
        leaves = tree.leaves(params)
        return {
            path: graph.from_matrix(
                use, wanda_scores(graph.to_matrix(use, jnp.asarray(leaves[path])), seen[path].sums)
            )
            for path, use in uses.items()
        }

    return score


def _matrices(read: graph.Graph) -> dict[str, Use]:
    """The leaves that are one and the same matrix in all their products."""
    uses: dict[str, list[Use]] = {}
    for (path, _), use in graph.products(read).items():
        uses.setdefault(path, []).append(use)
    return {path: found[0] for path, found in uses.items() if _is_one_matrix(found)}


def _is_one_matrix(uses: list[Use]) -> bool:
    try:
        for use in uses:
            graph.refuse_parts(use)
    except ValueError:
        return False
    return len({(use.in_axes, use.out_axes) for use in uses}) == 1
