"""`wlab inspect SRC`: shapes, dtypes, bytes and shardings of a checkpoint, from its header.

With `--stats` the arrays are read too, those of a file one at a time.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wlab.checkpoint import Source, listed, listing, open_source
from wlab.cli import shelf, weight_files
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("source", help=f"{weight_files.SOURCE}; or an orbax directory")
    parser.add_argument(
        "--stats", action="store_true", help="read the arrays: mean, std, absmax, density, NaN, Inf"
    )
    shelf.places(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The leaves and their total."""
    from wlab.inspection import leaf_stats, report

    source = _source(args)
    entries = listing(args.source) if source is None else listed(source)
    stats = None
    if args.stats:
        stats = {path: leaf_stats(array) for path, array in _arrays(source, args.source)}
    *leaves, total = report(entries, stats)
    return {"path": args.source, "leaves": leaves, "total": total}


def text(result: dict[str, Any]) -> str:
    """A table."""
    return str(from_records([*result["leaves"], result["total"]]))


def _source(args: argparse.Namespace) -> Source | None:
    """The file, the folder's, or the network's; None for an orbax directory."""
    path = Path(args.source)
    if path.is_file():
        return open_source(path)  # and no more is imported than its format needs
    if weight_files.is_orbax(args.source):
        return None
    return weight_files.source_of(args.source, args)


def _arrays(source: Source | None, path: str) -> Iterator[tuple[str, Any]]:
    """The numeric arrays of a checkpoint, by the paths of its listing."""
    import numpy as np

    arrays = weight_files.orbax_arrays(path) if source is None else source.arrays
    for name, array in arrays.items():
        yield name, np.asarray(array)
