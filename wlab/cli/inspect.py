"""`wlab inspect PATH`: shapes, dtypes, bytes and shardings of a checkpoint, from its header.

With `--stats` the arrays are read too, one at a time where the format allows it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wlab.checkpoint import listing
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument(
        "path", type=Path, help="a .safetensors or .npz file, or an orbax directory"
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

    if path.suffix == ".safetensors":
        from wlab.checkpoint.safetensors_header import safetensors_header

        contents = np.memmap(path, np.uint8, mode="r")
        for name, tensor in safetensors_header(path).tensors.items():
            yield name, contents[tensor.begin : tensor.end].view(tensor.dtype)
        return
    from wlab.checkpoint import load, load_npz
    from wlab.tree import leaves

    tree = load_npz(path) if path.suffix == ".npz" else load(path)
    for name, leaf in leaves(tree).items():
        if isinstance(getattr(leaf, "dtype", None), np.dtype):
            yield name, np.asarray(leaf)
