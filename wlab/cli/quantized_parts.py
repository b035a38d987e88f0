"""The arrays of a packed file whose leaves are quantized one at a time, while it is written."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy


def arrays(
    plain: Mapping[str, Lazy], choices: Mapping[str, Any], made: Mapping[str, Callable[[], Any]]
) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """The arrays to write, and their schema.

    Args:
        plain: The leaves.
        choices: The format of those that are quantized.
        made: Makes the QTensor of each of those.

    Raises:
        ValueError: If two arrays would have the same name.
    """
    from wlab.quantization.files import leaf_fields, refuse_taken

    refuse_taken([name for name in plain if name not in made], made)
    found: dict[str, Lazy] = {}
    schema = {}
    for name, array in plain.items():
        named = {name: array}
        if name in made:
            schema[name] = leaf_fields(choices[name], array.shape, array.dtype)
            named = _leaf(name, array.shape, choices[name], made[name])
        found |= named
    return found, schema


def _leaf(
    name: str, shape: tuple[int, ...], format: Any, make: Callable[[], Any]
) -> dict[str, Lazy]:
    """The parts of one leaf, which is quantized when the first of them is read, then let go."""
    from wlab.quantization.files import planned_parts

    planned, held = planned_parts(format, shape), {}

    def read(part: str) -> np.ndarray:
        if part not in held:
            q = make()
            held.update({each: np.asarray(getattr(q, each)) for each in planned})
        return held.pop(part)

    return {
        f"{name}.{part}": Lazy(
            shape, dtype, int(np.prod(shape)) * np.dtype(dtype).itemsize, partial(read, part)
        )
        for part, (shape, dtype) in planned.items()
    }
