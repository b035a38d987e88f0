"""Stages that are done, kept so that a run that is cut off goes on behind them."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

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


def nowhere() -> Finished:
    """Keeps nothing."""
    return Finished(lambda stage, of: None, lambda stage, of, arrays: None)


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


def _said(x: Any) -> Any:
    """The same text in every process, for functions too."""
    if isinstance(x, partial):
        return ["partial", _said(x.func), _said(x.args), _said(x.keywords)]
    if isinstance(x, Mapping):
        return [[str(key), _said(value)] for key, value in x.items()]
    if isinstance(x, tuple | list):
        return [_said(value) for value in x]
    if isinstance(x, FunctionType):
        held = [_said(cell.cell_contents) for cell in x.__closure__ or ()]
        return [x.__module__, x.__qualname__, held]
    return _checked(x) if isinstance(x, np.ndarray | jax.Array) else str(x)
