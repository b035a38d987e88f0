"""Fills a tree from a file, one move at a time or not yet at all, and says what it did."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab import tree
from wlab.checkpoint import Lazy, Source, open_source
from wlab.checkpoint.aligned import aligned
from wlab.pretrained.name_map import Move, NameMap
from wlab.pretrained.ops import forward
from wlab.pretrained.planning import Line, Plan, Policy, plan


@dataclass(frozen=True)
class Loaded:
    """A tree with its weights, and where each came from."""

    params: Any
    plan: Plan


def load(
    source: Source | str | os.PathLike[str],
    name_map: NameMap,
    like: Any,
    *,
    policies: tree.Rules[Policy] = ((".*", "error"),),
    ignore: Sequence[str] = (),
    dtype: Any = None,
    place: Callable[[str, np.ndarray], Any] | None = None,
    probe: Callable[[Any], bool] | None = None,
    report: Callable[[int], None] | None = None,
) -> Loaded:
    """Reads a file's arrays into the structure of `like`; at most one move is held twice.

    Nothing is padded, cut off or skipped but by a policy or a pattern that asks for it.

    Args:
        source: A file of any format that `wlab.checkpoint.open_source` knows, or one opened.
        name_map: Which array is which leaf.
        like: The tree to fill. Leaves may be shapes where the file has them all.
        policies: `(regex, policy)` for leaves the file cannot give, see `plan`.
        ignore: Regexes of names in the file that are left alone.
        dtype: The dtype of floating leaves; None keeps the file's.
        place: `(path, array) -> leaf`, for instance onto a mesh; by default the first device.
        probe: Whether the tree gives the outputs that are known, as a short forward pass tells.
            Needed where a map that nobody verified transposes a square kernel.
        report: Called with the bytes read so far.

    Raises:
        ValueError: If the file is damaged or does not fit; if a square kernel is neither verified
            nor probed; if the probe fails.
    """
    source = source if isinstance(source, Source) else open_source(source)
    planned = plan(source.arrays, name_map, like, policies=policies, ignore=ignore)
    planned.refuse_faults(str(source.path))
    _refuse_unproven(planned, source, probe)
    _refuse_other_constants(source, name_map)
    lines = {line.path: line for line in planned.lines if line.path}
    wanted, new, done = tree.leaves(like), {}, 0
    for move in name_map.moves:
        if any(lines[path].status != "missing" for path in move.ours):
            done += sum(source.arrays[name].nbytes for name in move.theirs)
            for path, array in _arrays(source, move).items():
                fitted = _fitted(lines[path], array, wanted[path])
                new[path] = _placed(path, fitted, dtype, place)
        if report is not None:
            report(done)
    rest = {
        path: _substitute(lines[path], leaf) for path, leaf in wanted.items() if path not in new
    }
    params = tree.replace(like, new | rest)
    if probe is not None and not probe(params):
        squares = [line.path for line in planned.lines if line.square]
        raise ValueError(
            f"{source.path}: the tree does not give the outputs that the probe knows. Leaves whose "
            f"transposition no shape proves: {squares or 'none'}."
        )
    return Loaded(params, planned)


def unread(
    source: Source | str | os.PathLike[str], name_map: NameMap, like: Any, *, dtype: Any = None
) -> Loaded:
    """As `load`, but the weights stay in the file: leaves are `Lazy`, and `np.asarray` reads one.

    For a tree that goes into another file, leaf by leaf. All of the file must fit.

    Args:
        source: As of `load`.
        name_map: Which array is which leaf.
        like: The tree, of which only the shapes count.
        dtype: The dtype of floating leaves; None keeps the file's.

    Raises:
        ValueError: As `load`.
    """
    source = source if isinstance(source, Source) else open_source(source)
    planned = plan(source.arrays, name_map, like)
    planned.refuse_faults(str(source.path))
    _refuse_unproven(planned, source, None)
    _refuse_other_constants(source, name_map)
    shapes = {path: tuple(leaf.shape) for path, leaf in tree.leaves(like).items()}
    found = {
        path: _unread(source, move, path, shapes[path], dtype)
        for move in name_map.moves
        for path in move.ours
    }
    return Loaded(tree.replace(like, found), planned)


def _unread(source: Source, move: Move, path: str, shape: tuple[int, ...], dtype: Any) -> Lazy:
    own = source.arrays[move.theirs[0]].dtype
    nbytes = math.prod(shape) * np.dtype(own).itemsize
    array = Lazy(shape, own, nbytes, lambda: np.asarray(_arrays(source, move)[path], order="C"))
    return array.plain(dtype)


def _arrays(source: Source, move: Move) -> Mapping[str, np.ndarray]:
    arrays = forward(move.ops, [source.arrays[name].read() for name in move.theirs])
    return dict(zip(move.ours, arrays, strict=True))


def _fitted(line: Line, array: np.ndarray, wanted: Any) -> Any:
    if line.status == "loaded":
        return array
    if line.policy == "slice":
        return _first(line, array, wanted.shape)
    return _substitute(line, wanted)


def _first(line: Line, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    larger = array.ndim == len(shape) and all(
        a >= b for a, b in zip(array.shape, shape, strict=True)
    )
    if not larger:
        raise ValueError(
            f"policies: leaf {line.path!r} is {line.found} in the file, of which {line.wanted} is "
            'no slice: use "init" or "zero".'
        )
    return array[tuple(slice(n) for n in shape)].copy()  # lets the rest go


def _substitute(line: Line, leaf: Any) -> Any:
    if line.policy == "zero":
        return jnp.zeros(leaf.shape, leaf.dtype)
    if not hasattr(leaf, "__array__"):
        raise ValueError(
            f"policies: leaf {line.path!r} shall keep its initial value, but `like` has only its "
            "shape: pass initialized parameters."
        )
    return leaf


def _placed(path: str, array: Any, dtype: Any, place: Callable[[str, Any], Any] | None) -> Any:
    if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(dtype)
    array = np.asarray(array, order="C")
    # The array is nobody else's: on a CPU, JAX takes its memory and copies nothing.
    return jax.device_put(aligned(array)) if place is None else place(path, array)


def _refuse_unproven(planned: Plan, source: Source, probe: Callable[[Any], bool] | None) -> None:
    squares = [line.path for line in planned.lines if line.square]
    if squares and probe is None:
        raise ValueError(
            f"{source.path}: no shape proves the transposition of {squares[:8]}"
            f"{' …' if len(squares) > 8 else ''}. Pass `probe=`, a check of a known output, or say "
            "in the map's `verified` how it was checked."
        )


def _refuse_other_constants(source: Source, name_map: NameMap) -> None:
    for name, expected in name_map.constants.items():
        if name in source.arrays and not np.array_equal(source.arrays[name].read(), expected):
            raise ValueError(f"{source.path}: {name!r} is not the constant that the map knows.")
    for name, other in name_map.ties.items():
        if name in source.arrays and not _same(source, name, other):
            raise ValueError(
                f"{source.path}: {name!r} differs from {other!r}, to which the map ties it: "
                "load it as a leaf of its own."
            )


def _same(source: Source, a: str, b: str) -> bool:
    return np.array_equal(source.arrays[a].read(), source.arrays[b].read())
