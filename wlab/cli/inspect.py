"""`wlab inspect PATH`: shapes, dtypes, bytes and shardings of a checkpoint, from its header.

With `--stats` the arrays are read too, those of a file one at a time.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wlab.checkpoint import listing, open_source
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument(
        "path", type=Path, help="a file of any format wlab reads, or an orbax directory"
    )
    parser.add_argument(
        "--stats", action="store_true", help="read the arrays: mean, std, absmax, density, NaN, Inf"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The leaves and their total."""
    from wlab.inspection import leaf_stats, report

    entries = listing(args.path)
    stats = None
    if args.stats:
        stats = {path: leaf_stats(array) for path, array in _arrays(args.path)}
    *leaves, total = report(entries, stats)
    return {"path": str(args.path), "leaves": leaves, "total": total}


def text(result: dict[str, Any]) -> str:
    """A table."""
    return str(from_records([*result["leaves"], result["total"]]))


def _arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """The numeric arrays of a checkpoint, by the paths of its listing."""
    import numpy as np

    if path.is_file():
        for name, array in open_source(path).arrays.items():
            yield name, array.read()
        return
    from wlab.checkpoint import load
    from wlab.tree import leaves

    for name, leaf in leaves(load(path)).items():
        if isinstance(getattr(leaf, "dtype", None), np.dtype):
            yield name, np.asarray(leaf)
