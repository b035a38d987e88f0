"""What a score is, and how it is read."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from wlab import tree
from wlab.transform import Params

Score: TypeAlias = Callable[[Params], Params]
"""From a tree to a score for each weight, larger is kept: by path, or in a tree like it."""


def floats(params: Params) -> dict[str, Float[Array, "..."]]:
    """The floating-point leaves, by path."""
    return {
        path: jnp.asarray(leaf)
        for path, leaf in tree.param_leaves(params).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }


def scored(
    score: Score, params: Params, paths: Iterable[str], *, purpose: str
) -> dict[str, Float[Array, "..."]]:
    """The scores of the leaves at `paths`, by path.

    Args:
        score: Any.
        params: What it is given.
        paths: Of the leaves that are ranked.
        purpose: What they are ranked for, named in errors.

    Raises:
        ValueError: If a leaf has no score, or one of another shape, or it holds NaN.
        TypeError: If the score gives a function.
    """
    given = score(params)
    if callable(given):
        raise TypeError(
            f"{purpose}: the score is to be made first, as scores.random(key) or "
            "scores.taylor(loss_fn, batches); it gave a function instead of numbers."
        )
    leaves, found = tree.leaves(params), tree.leaves(given)
    for path in paths:
        if path not in found:
            raise ValueError(
                f"{purpose}: the score has nothing for leaf {path!r}. Leave it out by a rule, or "
                "choose another score."
            )
        shape, wanted = jnp.shape(found[path]), jnp.shape(leaves[path])
        if shape != wanted:
            raise ValueError(
                f"{purpose}: the score of leaf {path!r} has shape {shape}, not {wanted}: it needs "
                "a number for each weight."
            )
    found = {path: jnp.asarray(found[path]) for path in paths}
    refuse_nan(found, f"{purpose}: the score of leaf")
    return found


def refuse_nan(arrays: Mapping[str, Array], what: str) -> None:
    """Refuses NaN, which has no rank; under jit it passes, and ranks largest.

    Raises:
        ValueError: If there is any, naming `what` and the path.
    """
    for path, array in arrays.items():
        if not isinstance(array, Tracer) and bool(jnp.isnan(array).any()):
            raise ValueError(
                f"{what} {path!r} holds NaN, which has no rank. Mend it, or leave it out by a rule."
            )
