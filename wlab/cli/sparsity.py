"""`wlab sparsity SRC [OTHER]`: what is left of a network, and how alike the masks of two are.

Leaves of a file are read one at a time. With `--tree` the network is read, too, for what its
products cost.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wlab.cli import shelf, weight_files
from wlab.cli.number import number
from wlab.cli.thinning import is_prunable
from wlab.table import Table, from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", help=f"{weight_files.SOURCE}; or an orbax directory")
    flag("other", nargs="?", help="one with the same leaves, to compare")
    flag("--tree", action="store_true", help="of a network wlab knows: multiply-adds, activations")
    flag("--tokens", type=number(int, 1), default=128, help="--tree: that these are of [128]")
    flag("--weights-file", type=Path, metavar="FILE", help="--tree: weights instead of its own")
    shelf.places(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row a leaf with its counts and bytes, two sums, and a row a leaf of the overlap."""
    from wlab import graph, tree
    from wlab.data.progress import progress
    from wlab.pretrained.narrowing import as_graph
    from wlab.pretrained.networks.network import whole_tree
    from wlab.pruning.sparsity import leaf_sparsity, sparsity_table

    if args.tree and args.other is not None:
        args.usage_error("--tree looks at one network: masks are compared in the files' own names.")
    if args.weights_file is not None and not args.tree:
        args.usage_error("--weights-file goes with --tree.")
    network = shelf.network(args.source, args, lazy=True) if args.tree else None
    arrays = _arrays(args.source, args) if network is None else tree.leaves(whole_tree(network))
    prunable = [name for name, array in arrays.items() if is_prunable(name, array)]
    leaves = {}
    with progress(Path(args.source).name, len(arrays), unit="leaves") as report:
        for name, array in arrays.items():
            leaves[name] = leaf_sparsity(array)
            report(len(leaves))
    costs = None if network is None else graph.costs(as_graph(network, tokens=args.tokens))
    return {
        "source": args.source,
        "other": args.other,
        "leaves": _records(sparsity_table(leaves, prunable=prunable, costs=costs)),
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
    return weight_files.orbax_arrays(source)


def _records(table: Table) -> list[dict[str, Any]]:
    return json.loads(json.dumps(table.records()))  # shapes are lists, as in any JSON
