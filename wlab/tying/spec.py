"""A tie as data: which leaf is not stored, and how it is read off the one that is.

Ties may form chains (a from b, b from c). Each destination has one source, and following
the sources ends at a leaf that is stored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from wlab.tree import describe, leaves


@dataclass(frozen=True)
class Tie:
    """The leaf at `destination` is seen as `scale · transpose(source)` and not stored.

    Attributes:
        destination: Path of the leaf that is taken out of the stored tree.
        source: Path of the leaf it is read from, which keeps its own value.
        transpose: True reverses the axes; a tuple is the permutation, as in `jnp.transpose`.
        scale: Factor of the destination, such as d^-0.5 for T5's output matrix.
    """

    destination: str
    source: str
    _: KW_ONLY
    transpose: bool | tuple[int, ...] = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ValueError(
                f"tie: the scale of {self.destination!r} must be finite and not zero, "
                f"got {self.scale}."
            )


def by_destination(ties: Sequence[Tie]) -> dict[str, Tie]:
    """The ties by the leaf they take out.

    Raises:
        ValueError: If a destination is tied twice or depends on itself.
        TypeError: If the ties are no list of them.
    """
    if not isinstance(ties, Sequence) or not all(isinstance(tie, Tie) for tie in ties):
        raise TypeError(
            'tie: ties are a list, as [Tie("head/kernel", "embed/embedding", transpose=True)]; got '
            f"{ties!r}."
        )
    tied: dict[str, Tie] = {}
    for tie in ties:
        if tie.destination in tied:
            raise ValueError(
                f"tie: {tie.destination!r} is tied twice, to {tied[tie.destination].source!r} "
                f"and to {tie.source!r}. Keep one of the two."
            )
        tied[tie.destination] = tie
    for destination in tied:
        _refuse_cycle(tied, destination)
    return tied


def check(params: Any, ties: Sequence[Tie]) -> None:
    """Compares the ties with a tree of arrays or shapes.

    Raises:
        ValueError: If a path is no leaf of the tree, or the two leaves of a tie differ in
            shape or dtype, or a scale stands on integers.
    """
    found = leaves(params)
    for tie in ties:
        for path in (tie.destination, tie.source):
            if path not in found:
                raise ValueError(f"{tie}: no leaf at {path!r}; the tree has {list(found)[:16]}.")
        _check_shapes(tie, found)
        _check_dtypes(tie, found)


def show(source: Shaped[Array, "..."], tie: Tie) -> Shaped[Array, "..."]:
    """The destination, `scale · transpose(source)`, never the source array itself."""
    leaf = jnp.transpose(source, _axes(tie, source.ndim))
    return jnp.copy(leaf) if tie.scale == 1 else leaf * tie.scale


def pull(cotangent: Shaped[Array, "..."], tie: Tie) -> Shaped[Array, "..."]:
    """The destination's cotangent in the source's layout: the transpose of the linear `show`."""
    inverse = np.argsort(_axes(tie, cotangent.ndim)).tolist()
    leaf = jnp.transpose(cotangent, inverse)
    return leaf if tie.scale == 1 else leaf * tie.scale


def _axes(tie: Tie, ndim: int) -> tuple[int, ...]:
    if isinstance(tie.transpose, tuple):
        return tie.transpose
    return tuple(reversed(range(ndim))) if tie.transpose else tuple(range(ndim))


def _refuse_cycle(tied: Mapping[str, Tie], destination: str) -> None:
    walk = [destination]
    while walk[-1] in tied:
        walk.append(tied[walk[-1]].source)
        if walk[-1] in walk[:-1]:
            raise ValueError(
                f"tie: {' from '.join(map(repr, walk))} goes round in a circle. "
                "Remove one of these ties: one leaf must be stored."
            )


def _check_shapes(tie: Tie, found: Mapping[str, Any]) -> None:
    source, destination = jnp.shape(found[tie.source]), jnp.shape(found[tie.destination])
    axes = _axes(tie, len(source))
    if sorted(axes) != list(range(len(source))):
        raise ValueError(f"{tie}: transpose does not permute the axes of the source, {source}.")
    if tuple(source[axis] for axis in axes) == destination:
        return
    fitting = [flip for flip in (True, False) if destination == (source[::-1] if flip else source)]
    raise ValueError(
        f"tie: {tie.destination!r} has the shape {destination}, but {tie.source!r} has {source} "
        f"and transpose={tie.transpose}. "
        + (f"transpose={fitting[0]} fits." if fitting else "Tie leaves of one size.")
    )


def _check_dtypes(tie: Tie, found: Mapping[str, Any]) -> None:
    source, destination = found[tie.source], found[tie.destination]
    if jnp.result_type(source) != jnp.result_type(destination):
        raise ValueError(
            f"tie: {tie.destination!r} is {describe(destination)}, but {tie.source!r} is "
            f"{describe(source)}. Cast one of them first."
        )
    if tie.scale != 1 and not jnp.issubdtype(jnp.result_type(source), jnp.inexact):
        raise ValueError(
            f"tie: {tie.source!r} is {describe(source)}, which the scale {tie.scale} of "
            f"{tie.destination!r} would round. Remove the scale."
        )
