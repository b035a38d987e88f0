"""A leaf that isn't the array that was read: packed codes, factors, whatever replaces it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from wlab.graph.arranging import ARRANGING, PASSING


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["path"])
@dataclass(frozen=True)
class Held:
    """Takes a leaf's place in an evaluation, up to the product that knows what to do with it.

    A loop over the leaf's first axis runs over the first axis of every array in it.

    Attributes:
        value: Any tree of arrays.
        path: The leaf's.
    """

    value: Any
    path: str


def is_array(value: Any) -> bool:
    """Whether a value is one array, or stands for one, and no tree of them."""
    return jax.tree_util.all_leaves([value]) and hasattr(value, "dtype")


def carried(equation: Any, operands: Sequence[Any], held: Held) -> Sequence[Any]:
    """The results of an equation that only arranges entries: what was held, as it is.

    Raises:
        ValueError: If the equation does anything else.
    """
    name = equation.primitive.name
    if name not in ARRANGING:
        raise ValueError(
            f"{held.path!r} holds something else than the array that was read, and {name} needs "
            "that array: replace every use of that leaf, or put the array there."
        )
    return operands if name in PASSING else [held] * len(equation.outvars)
