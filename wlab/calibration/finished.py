"""Stages that are done, kept so that a run that is cut off goes on behind them."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from wlab import tree
from wlab.transform import Params

Arrays: TypeAlias = Mapping[str, Any]


class Finished(NamedTuple):
    """Where the work of finished stages is kept, as `checkpoint.finished_in(folder)` makes it.

    Attributes:
        load: From a stage and what it is of: its arrays, or None if it is not done.
        save: Keeps the arrays of a stage, and what it is of.
    """

    load: Callable[[str, str], Arrays | None]
    save: Callable[[str, str, Arrays], None]


class Told(NamedTuple):
    """How what is told of a leaf goes into arrays, and comes back.

    Attributes:
        names: Of the arrays.
        write: From what was told to arrays by these names; None for one that there is not.
        read: From path, matrix before and after, arrays and choice to what was told.
    """

    names: tuple[str, ...]
    write: Callable[[Any], Arrays]
    read: Callable[[str, Array, Array, Arrays, Any], Any]


NOWHERE = Finished(lambda stage, of: None, lambda stage, of, arrays: None)
NOTHING = Told((), lambda told: {}, lambda path, old, new, arrays, choice: None)


def arrays_of(leaves: Arrays, told: Mapping[str, Any], codec: Told) -> dict[str, Any]:
    """The leaves of a stage, and what was told of each, under one name each."""
    found = {f"leaf:{path}": leaf for path, leaf in leaves.items()}
    for path in leaves:
        parts = codec.write(told[path])
        found |= {f"{name}:{path}": x for name, x in parts.items() if x is not None}
    return found


def leaf_of(path: str, arrays: Arrays, like: Any) -> Array:
    """A leaf out of what `arrays_of` gave, laid out as it was before."""
    found = arrays[f"leaf:{path}"]
    return (
        jax.device_put(found, like.sharding) if isinstance(like, jax.Array) else jnp.asarray(found)
    )


def parts_of(path: str, arrays: Arrays, codec: Told) -> dict[str, Any]:
    """What was told of a leaf, out of what `arrays_of` gave."""
    named = {name: arrays.get(f"{name}:{path}") for name in codec.names}
    return {name: x for name, x in named.items() if x is not None}


def fingerprint(params: Params, batches: Sequence[Any], *asked: Any) -> str:
    """What a stage is of: the same for the same weights, batches and wishes only.

    Functions among the wishes count by their names and what they hold.
    """
    found: dict[str, Any] = {"asked": _said(asked), "leaves": {}, "batches": []}
    for path, leaf in tree.leaves(params).items():
        found["leaves"][path] = _checked(leaf)
    for batch in batches:
        found["batches"].append([_checked(x) for x in jax.tree.leaves(batch)])
    return f"{zlib.crc32(json.dumps(found).encode()):08x}"


def _checked(x: Any) -> tuple[Any, ...]:
    array = np.ascontiguousarray(x)
    return array.shape, array.dtype.name, zlib.crc32(array.reshape(-1).view(np.uint8))


def _said(x: Any, within: tuple[Any, ...] = ()) -> Any:
    """The same text in every process, for functions too."""
    if any(x is outer for outer in within):
        return "itself"
    inner = partial(_said, within=(*within, x))
    if isinstance(x, partial):
        return ["partial", inner(x.func), inner(x.args), inner(x.keywords)]
    if isinstance(x, Mapping):
        return [[str(key), inner(value)] for key, value in x.items()]
    if isinstance(x, tuple | list):
        return [inner(value) for value in x]
    if isinstance(x, FunctionType):
        held = [inner(cell.cell_contents) for cell in x.__closure__ or ()]
        return [x.__module__, x.__qualname__, held]
    return _checked(x) if isinstance(x, np.ndarray | jax.Array) else str(x)
