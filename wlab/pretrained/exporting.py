"""From a tree back to the arrays of a file, by the same map that loaded it."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from wlab import tree
from wlab.checkpoint import Lazy
from wlab.pretrained.name_map import Move, NameMap
from wlab.pretrained.ops import inverse


def export(
    params: Any, name_map: NameMap, *, names: Collection[str] | None = None
) -> dict[str, Lazy]:
    """The arrays under the names of the file, each made when it is read.

    `wlab.checkpoint.save_safetensors(path, export(...))` writes them one by one.

    Args:
        params: The tree, as the model sees it.
        name_map: Which leaf is which array.
        names: Those to write: of a file that was loaded, `source.arrays` gives the same names
            again. None stands for all that the map moves, without constants and second names.

    Raises:
        ValueError: If leaf and map do not fit, or the map does not know one of `names`.
    """
    leaves = tree.leaves(params)
    absent = sorted(set(name_map.ours) ^ set(leaves))
    if absent:
        raise ValueError(
            f"export: leaf {absent[0]!r} is in the map or in the tree, but not in both."
        )
    made = {name: one for move in name_map.moves for name, one in _made(move, leaves).items()}
    made |= {name: _lazy(array) for name, array in name_map.constants.items()}
    made |= {name: made[other] for name, other in name_map.ties.items()}
    names = name_map.theirs if names is None else names
    unknown = [name for name in names if name not in made]
    if unknown:
        raise ValueError(f"export: the map makes no array {unknown[0]!r}.")
    return {name: made[name] for name in names}


def _made(move: Move, leaves: Mapping[str, Any]) -> dict[str, Lazy]:
    arrays = [leaves[path] for path in move.ours]

    def abstract() -> Any:
        return inverse(move.ops, [jax.numpy.zeros(x.shape, bool) for x in arrays])

    def read(index: int) -> np.ndarray:
        return np.asarray(inverse(move.ops, [np.asarray(x) for x in arrays])[index], order="C")

    dtype = np.dtype(arrays[0].dtype)
    shapes = [x.shape for x in jax.eval_shape(abstract)]
    return {
        name: Lazy(shape, dtype.name, int(np.prod(shape)) * dtype.itemsize, partial(read, i))
        for i, (name, shape) in enumerate(zip(move.theirs, shapes, strict=True))
    }


def _lazy(array: np.ndarray) -> Lazy:
    return Lazy(array.shape, array.dtype.name, array.nbytes, lambda: array)
