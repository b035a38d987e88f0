"""`wlab convert SRC DST`: from any format that wlab reads to any that it writes.

Arrays keep their names, or with `--tree` become the plain tree of a network that wlab knows; those
of a folder of the LLaMA family take ggml's in a `.gguf` file, which llama.cpp reads. They are read,
converted and written one at a time.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy, Source
from wlab.cli import weight_files


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", type=Path, help="a file of any format wlab reads, or a folder of the hub")
    flag("target", type=Path, help=f"ends in {', '.join(weight_files.ENDINGS)}")
    flag("--tree", action="store_true", help="as the tree of a network that wlab knows")
    weight_files.arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was written, or would be."""
    target = args.target
    renamed = target.suffix == ".gguf" and not args.tree and _is_llama(args.source)
    source = _in_ggml_names(args) if renamed else weight_files.opened(args.source)
    keeps_metadata = target.suffix != ".gguf" or source.format == "gguf"
    write = weight_files.writer(
        target, source.metadata if keeps_metadata else {}, force=args.force or args.dry_run
    )
    arrays = _as_tree(args.source) if args.tree else dict(source.arrays)
    keeps_blocks = target.suffix == ".gguf" and (args.dtype is None or renamed)
    found = {
        name: array if keeps_blocks else weight_files.plain(array, args.dtype)
        for name, array in arrays.items()
    }
    if not args.dry_run:
        weight_files.write(write, target, found)
    total = sum(array.nbytes for array in found.values())
    return {
        "source": str(args.source),
        "format": source.format,
        "target": str(target),
        "written": not args.dry_run,
        "bytes": total if args.dry_run else target.stat().st_size,
        "arrays": [_row(name, arrays[name], found[name]) for name in found],
    }


text = weight_files.text


def _in_ggml_names(args: argparse.Namespace) -> Source:
    from wlab import pretrained

    network = pretrained.from_hub(args.source, lazy=True)
    arrays, metadata = pretrained.to_gguf(network, dtype=args.dtype)
    return Source(args.source, "gguf", arrays, metadata)


def _is_llama(path: Path) -> bool:
    """Whether it is a folder of the hub with a network that GGUF files can hold."""
    from wlab.checkpoint.formats.json_text import json_object
    from wlab.pretrained.networks.hub_llama import FAMILIES

    sizes = path / "config.json"
    return sizes.is_file() and json_object(sizes).get("model_type") in FAMILIES


def _as_tree(path: Path) -> dict[str, Lazy]:
    import numpy as np

    from wlab import pretrained, tree

    network = pretrained.from_hub(path) if path.is_dir() else pretrained.from_gguf(path)
    arrays = {name: np.asarray(leaf) for name, leaf in tree.leaves(network.params).items()}
    return {
        name: Lazy(array.shape, array.dtype.name, array.nbytes, partial(np.asarray, array))
        for name, array in arrays.items()
    }


def _row(name: str, before: Lazy, after: Lazy) -> dict[str, Any]:
    return {
        "array": name,
        "shape": list(after.shape),
        "from": before.encoding or before.dtype,
        "to": after.encoding or after.dtype,
        "bytes": after.nbytes,
    }
