"""A listing, with statistics or without, as rows: one a leaf and a total."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from wlab.inspection.entry import Entry
from wlab.inspection.stats import LeafStats, merged

Row = dict[str, Any]


def report(entries: Iterable[Entry], stats: Mapping[str, LeafStats] | None = None) -> list[Row]:
    """One row a leaf, in the order given, and the total as the last one.

    Args:
        entries: The leaves, from a file's header or a tree.
        stats: By path; a leaf without any has None in those columns.
    """
    leaves = [_header(entry) for entry in entries]
    total = {"path": "total", "dtype": None, "shape": None, "sharding": None}
    total |= {column: sum(leaf[column] for leaf in leaves) for column in ("size", "bytes")}
    rows = [*leaves, total]
    if stats is None:
        return rows
    found = [*(stats.get(leaf["path"]) for leaf in leaves), merged(stats.values())]
    return [row | _statistics(stat) for row, stat in zip(rows, found, strict=True)]


def _header(entry: Entry) -> Row:
    return {
        "path": entry.path,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "sharding": entry.sharding,
        "size": prod(entry.shape),
        "bytes": entry.nbytes,
    }


def _statistics(stats: LeafStats | None) -> Row:
    names = ("mean", "std", "absmax", "density", "nan", "inf")
    return {name: None if stats is None else getattr(stats, name) for name in names}
