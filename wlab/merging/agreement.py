"""What must agree before models are merged: vocabularies, ties, names, shapes and dtypes."""

from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

from wlab import tree
from wlab.merging.parent import Parent, dtype_of, is_float, shape_of


def refuse_disagreement(parents: Sequence[Parent], *, mixed_dtypes: bool = False) -> None:
    """Does nothing to parents whose leaves can be merged one by one.

    Args:
        parents: Named, with a mapping from paths to leaves as weights.
        mixed_dtypes: Allow a leaf to have another float dtype in each model.

    Raises:
        ValueError: If vocabularies, ties, names, shapes or dtypes differ, naming the leaf and
            the two models.
    """
    for parent in parents:
        _refuse_values_that_are_no_arrays(parent)
        _refuse_stored_ties(parent)
    _refuse_pairs(_refuse_vocabs, [parent for parent in parents if parent.vocab is not None])
    _refuse_pairs(_refuse_ties, [parent for parent in parents if parent.ties is not None])
    for other in parents[1:]:
        _refuse_names(parents[0], other)
        for path in other.weights:
            _refuse_headers(path, parents[0], other, mixed_dtypes)


def refuse_aliases(parents: Sequence[Parent]) -> list[tuple[str, ...]]:
    """The groups of paths that hold one array, the same in all parents; weights are trees.

    Raises:
        ValueError: If an array stands at two paths in one model and two stand there in another.
    """
    groups = [set(tree.aliases(parent.weights)) for parent in parents]
    for parent, found in zip(parents[1:], groups[1:], strict=True):
        if found != groups[0]:
            paths = min(found ^ groups[0])
            one, other = parents[0].name, parent.name
            holder, apart = (other, one) if paths in found else (one, other)
            raise ValueError(
                f"merge: {list(paths)} hold one array in {holder!r}, but not in {apart!r}. "
                "Give each path an array of its own, or tie them in both."
            )
    return tree.aliases(parents[0].weights)


def _refuse_pairs(refuse: Any, known: Sequence[Parent]) -> None:
    for other in known[1:]:
        refuse(known[0], other)


def _refuse_values_that_are_no_arrays(parent: Parent) -> None:
    for path, leaf in parent.weights.items():
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(
                f"merge: {path!r} of {parent.name!r} is a {type(leaf).__name__}, not an array. "
                "Pass the arrays alone."
            )


def _refuse_stored_ties(parent: Parent) -> None:
    for destination, source in (parent.ties or {}).items():
        if destination in parent.weights:
            raise ValueError(
                f"merge: {parent.name!r} ties {destination!r} to {source!r}, but stores "
                f"{destination!r} too. Take it out of the weights, or the tie out of `ties`."
            )


def _refuse_vocabs(one: Parent, other: Parent) -> None:
    pairs = zip_longest(one.vocab or (), other.vocab or ())
    for row, (mine, theirs) in enumerate(pairs):
        if mine != theirs:
            raise ValueError(
                f"merge: the vocabularies part at row {row}: {mine!r} in {one.name!r} (of "
                f"{len(one.vocab or ())}), {theirs!r} in {other.name!r} (of "
                f"{len(other.vocab or ())}). Bring the embeddings to one vocabulary first."
            )


def _refuse_ties(one: Parent, other: Parent) -> None:
    mine, theirs = dict(one.ties or {}), dict(other.ties or {})
    for path in sorted({*mine, *theirs}):
        if mine.get(path) != theirs.get(path):
            raise ValueError(
                f"merge: {one.name!r} has {_tie(path, mine)}, {other.name!r} has "
                f"{_tie(path, theirs)}. Untie one of them, or tie both alike."
            )


def _tie(path: str, ties: dict[str, str]) -> str:
    return f"{path!r} tied to {ties[path]!r}" if path in ties else f"{path!r} not tied"


def _refuse_names(one: Parent, other: Parent) -> None:
    for holder, lacking in ((one, other), (other, one)):
        missing = [path for path in holder.weights if path not in lacking.weights]
        if missing:
            tied = [path for path in missing if path in (lacking.ties or {})]
            raise ValueError(
                f"merge: {lacking.name!r} has no leaf at {_some(missing)}, {holder.name!r} has. "
                + (
                    f"{lacking.name!r} ties {_some(tied)}: untie it there, or tie {holder.name!r}."
                    if tied
                    else "Rename or remove leaves until both have the same."
                )
            )


def _refuse_headers(path: str, one: Parent, other: Parent, mixed_dtypes: bool) -> None:
    mine, theirs = one.weights[path], other.weights[path]
    if shape_of(mine) != shape_of(theirs):
        raise ValueError(
            f"merge: {path!r} has the shape {shape_of(mine)} in {one.name!r} and "
            f"{shape_of(theirs)} in {other.name!r}. Only equal shapes can be merged."
        )
    if dtype_of(mine) != dtype_of(theirs):
        are_floats = is_float(mine) and is_float(theirs)
        if not (mixed_dtypes and are_floats):
            raise ValueError(
                f"merge: {path!r} is {dtype_of(mine)} in {one.name!r} and {dtype_of(theirs)} in "
                f"{other.name!r}. "
                + (
                    "Pass mixed_dtypes=True to get the first model's dtype."
                    if are_floats
                    else "Dequantize or cast one of them."
                )
            )


def _some(paths: Collection[str], limit: int = 4) -> str:
    shown = ", ".join(map(repr, list(paths)[:limit]))
    return shown + (f", … ({len(paths)} in all)" if len(paths) > limit else "")
