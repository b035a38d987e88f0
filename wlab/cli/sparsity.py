"""`wlab sparsity SRC [OTHER]`: what is left of a network, and how alike the masks of two are.

Leaves of a file are read one at a time.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wlab.cli import shelf, weight_files
from wlab.cli.thinning import is_prunable
from wlab.table import Table, from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("source", help=f"{weight_files.SOURCE}; or an orbax directory")
    parser.add_argument("other", nargs="?", help="one with the same leaves, to compare")
    shelf.places(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row a leaf with its counts and bytes, two sums, and a row a leaf of the overlap."""
    from wlab.data.progress import progress
    from wlab.pruning.sparsity import leaf_sparsity, sparsity_table

    arrays = _arrays(args.source, args)
    prunable = [name for name, array in arrays.items() if is_prunable(name, array)]
    leaves = {}
    with progress(Path(args.source).name, len(arrays), unit="leaves") as report:
        for name, array in arrays.items():
            leaves[name] = leaf_sparsity(array)
            report(len(leaves))
    return {
        "source": args.source,
        "other": args.other,
        "leaves": _records(sparsity_table(leaves, prunable=prunable)),
        "overlap": None
        if args.other is None
        else _overlap({name: arrays[name] for name in prunable}, args),
    }


def text(result: dict[str, Any]) -> str:
    """One table, or two."""
    table = str(from_records(result["leaves"]))
    if result["overlap"] is None:
        return table
    return f"{table}\n\noverlap with {result['other']}\n{from_records(result['overlap'])}"


def _overlap(arrays: Mapping[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    from wlab.pruning.overlap import overlap_table, shared

    others = _arrays(args.other, args)
    for name, array in arrays.items():
        shape = tuple(others[name].shape) if name in others else None
        if shape != tuple(array.shape):
            raise ValueError(
                f"leaf {name!r} is {tuple(array.shape)}, in {args.other} it is "
                f"{'missing' if shape is None else shape}: only masks of the same leaves compare."
            )
    return _records(overlap_table({n: shared(a, others[n]) for n, a in arrays.items()}))


def _arrays(source: str, args: argparse.Namespace) -> Mapping[str, Any]:
    """The arrays by name; those of a file stay there until they are asked for."""
    if not weight_files.is_orbax(source):
        return weight_files.source_of(source, args).arrays
    import numpy as np

    from wlab.checkpoint import load
    from wlab.tree import leaves

    found = leaves(load(source))  # keys of random numbers are no weights
    return {name: leaf for name, leaf in found.items() if isinstance(leaf.dtype, np.dtype)}


def _records(table: Table) -> list[dict[str, Any]]:
    return json.loads(json.dumps(table.records()))  # shapes are lists, as in any JSON
