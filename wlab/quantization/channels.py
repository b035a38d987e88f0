"""Numbers of a leaf's rows, and of the factors that rows of several leaves have in common."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import graph
from wlab.graph import Scaling, Use
from wlab.transform import Params
from wlab.tree import leaves

Uses: TypeAlias = Mapping[str, Use]
Numbers: TypeAlias = Mapping[str, Any]  # by path: of each row of the leaf's matrix, any batch of it


def uses_of(read: graph.Graph) -> dict[str, Use]:
    """The first product of each leaf with something that depends on the inputs."""
    found: dict[str, Use] = {}
    for (path, _), use in graph.products(read).items():
        found.setdefault(path, use)
    return found


def matrix_of(params: Params, use: Use) -> Float[Array, "*batch inputs outputs"]:
    """A leaf as a matrix, in float32."""
    return graph.to_matrix(use, jnp.asarray(leaves(params)[use.path])).astype(jnp.float32)


def row_ranges(params: Params, use: Use) -> Float[np.ndarray, "*batch inputs"]:
    """The largest magnitude in each row of a leaf's matrix."""
    return np.abs(np.asarray(matrix_of(params, use))).max(-1, initial=0)


def largest(scaling: Scaling, uses: Uses, numbers: Numbers) -> Float[np.ndarray, " size"]:
    """For each factor the largest number of all rows that have it; 0 if none is there."""
    found = np.zeros(scaling.size + 1, np.float32)
    for path, of_rows in numbers.items():
        np.maximum.at(found, graph.rows(scaling, uses[path]), np.asarray(of_rows, np.float32))
    return found[1:]


def averages(scaling: Scaling, uses: Uses, numbers: Numbers) -> Float[np.ndarray, " size"]:
    """For each factor the mean number of all rows that have it; 0 if none is there."""
    total, count = np.zeros(scaling.size + 1), np.zeros(scaling.size + 1)
    for path, of_rows in numbers.items():
        rows = graph.rows(scaling, uses[path])
        np.add.at(total, rows, np.asarray(of_rows, np.float64))
        np.add.at(count, rows, 1)
    return (total / np.maximum(count, 1))[1:].astype(np.float32)


def of_rows(
    scaling: Scaling, use: Use, s: Float[np.ndarray, " size"]
) -> Float[np.ndarray, "*batch inputs"]:
    """The factor of each row of a leaf's matrix; 1 where it has none."""
    return np.concatenate([np.ones(1, np.float32), s])[graph.rows(scaling, use)]
