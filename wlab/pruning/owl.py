"""OWL: more weights for layers in which a few matter far more than the others."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import tree
from wlab.calibration import Batches
from wlab.pruning.budget import Density, refuse_bad_density
from wlab.pruning.patterns import Pattern, PerOutput
from wlab.pruning.scores import scored, wanda
from wlab.transform import Params


def owl(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    density: float,
    rules: tree.Rules[bool | None],
    *,
    stages: Sequence[str] | None = None,
    outlier: float = 5.0,
    spread: float = 0.08,
    pattern: Callable[[float], Pattern | Density] = PerOutput,
) -> list[tuple[str, Any]]:
    """Rules with a density for each leaf, from the outliers among its weights' scores.

    D = the fraction of |W_ij| · ‖x_i‖ above `outlier` times their mean, of the leaves of a stage.
    Densities are 2 · spread · (D − min D) / (max D − min D), moved so that their mean over all
    weights is `density`. The rules fit `wanda`, `sparsegpt` and `prune`.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        density: The fraction kept of the selected leaves together.
        rules: Ordered `(path regex, whether the leaf is pruned)`.
        stages: Path regexes; the leaves of a stage, as a block, share a density. By default every
            leaf has its own.
        outlier: M, times the mean; 5 or 7 in the paper.
        spread: λ: how far a density may be from the middle of the range.
        pattern: What is made of a density: `PerOutput`, `PerLeaf`, or `float` for `prune`.

    Raises:
        ValueError: If the rules do not fit the tree or select none, a leaf is in no product, the
            stages miss a leaf or have none, or a density would leave [0, 1].

    Reference:
        Yin et al. 2023 (arXiv:2310.05175).
    """
    refuse_bad_density(density)
    paths = tree.selected(rules, params, purpose="owl")
    if not paths:
        raise ValueError(f"owl: the rules select none of the leaves {tree.paths(params)}.")
    names = paths if stages is None else stages
    regexes = [(re.escape(name) if stages is None else name, name) for name in names]
    stage_of = tree.match(regexes, paths, purpose="owl, stages")
    scores = scored(wanda(fn, batches), params, paths, purpose="owl")
    stacked = {name: [scores[p] for p in paths if stage_of[p] == name] for name in names}
    outliers = {name: _outliers(leaves, outlier) for name, leaves in stacked.items()}
    sizes = {name: sum(leaf.size for leaf in leaves) for name, leaves in stacked.items()}
    densities = _about(density, outliers, sizes, spread)
    return [*((re.escape(p), pattern(densities[stage_of[p]])) for p in paths), (".*", None)]


def _outliers(scores: Sequence[Float[Array, "..."]], outlier: float) -> float:
    """The fraction of the scores above so many times their mean."""
    size = sum(leaf.size for leaf in scores)
    mean = sum(float(jnp.sum(leaf)) for leaf in scores) / size
    return sum(int(jnp.count_nonzero(leaf > outlier * mean)) for leaf in scores) / size


def _about(
    density: float, outliers: Mapping[str, float], sizes: Mapping[str, int], spread: float
) -> dict[str, float]:
    """Densities that rise with the outliers, over a range of twice the spread."""
    found, weights = np.array(list(outliers.values())), np.array([sizes[n] for n in outliers])
    raised = 2 * spread * (found - found.min()) / (np.ptp(found) or 1.0)
    densities = density + raised - np.average(raised, weights=weights)
    for name, value in zip(outliers, densities, strict=True):
        if not 0 <= value <= 1:
            raise ValueError(
                f"owl: {name!r} would have a density of {value:.3f}. Choose a smaller spread than "
                f"{spread} about {density}."
            )
    return dict(zip(outliers, densities.tolist(), strict=True))
