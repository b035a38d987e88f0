"""`wlab convert SRC DST`: from any format that wlab reads to any that it writes.

Arrays keep their names, or with `--tree` become the plain tree of a network that wlab knows; those
of a folder of LLaMA's kin take ggml's in a `.gguf` file, which llama.cpp reads, and those of such a
file the hub's in a folder. They are read, converted and written one at a time.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy, Source
from wlab.cli import weight_files


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", type=Path, help="a file of any format wlab reads, or a folder of the hub")
    flag("target", type=Path, help=f"ends in {', '.join(weight_files.ENDINGS)}, or a folder")
    flag("--tree", action="store_true", help="as the tree of a network that wlab knows")
    weight_files.arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was written, or would be."""
    target = args.target
    renamed = target.suffix == ".gguf" and not args.tree and _is_llama(args.source)
    if weight_files.ending(target) == "":
        source, write = _in_hub_names(args)
    elif renamed:
        source, write = _in_ggml_names(args)
    else:
        source, write = _in_own_names(args)
    arrays = _as_tree(args.source) if args.tree else dict(source.arrays)
    as_is = renamed or (target.suffix == ".gguf" and args.dtype is None)
    found = {name: array if as_is else array.plain(args.dtype) for name, array in arrays.items()}
    if not args.dry_run:
        weight_files.write(write, target, found)
    total = sum(array.nbytes for array in found.values())
    written = target if weight_files.ending(target) else target / "model.safetensors"
    return {
        "source": str(args.source),
        "format": source.format,
        "target": str(target),
        "written": not args.dry_run,
        "bytes": total if args.dry_run else written.stat().st_size,
        "arrays": [_row(name, arrays[name], found[name]) for name in found],
    }


text = weight_files.text


def _in_own_names(args: argparse.Namespace) -> tuple[Source, weight_files.Write]:
    """The arrays as the source names them, and what writes the target."""
    source = weight_files.opened(args.source)
    keeps_metadata = args.target.suffix != ".gguf" or source.format == "gguf"
    metadata = source.metadata if keeps_metadata else {}
    return source, weight_files.writer(args.target, metadata, force=args.force or args.dry_run)


def _in_hub_names(args: argparse.Namespace) -> tuple[Source, weight_files.Write]:
    """The arrays that a folder of the hub has of the network in a GGUF file or another folder."""
    from wlab import pretrained
    from wlab.pretrained.networks.hub_writing import to_hub, write_folder

    if args.tree or not (args.source.is_dir() or args.source.suffix == ".gguf"):
        raise ValueError(
            f"{args.target} has no ending, so it would be a folder of the hub, which a GGUF file "
            f"or another folder becomes. End it in {', '.join(weight_files.ENDINGS)}."
        )
    if args.target.exists() and not (args.force or args.dry_run):
        raise FileExistsError(f"{args.target} is there: --force replaces its files.")
    load = pretrained.from_hub if args.source.is_dir() else pretrained.from_gguf
    network = load(args.source, lazy=True)
    arrays, config = to_hub(network, dtype=args.dtype)

    def write(target: Path, found: Mapping[str, Lazy]) -> None:
        write_folder(target, found, config, network.tokenizer)

    return Source(args.source, "hub" if args.source.is_dir() else "gguf", arrays), write


def _in_ggml_names(args: argparse.Namespace) -> tuple[Source, weight_files.Write]:
    """The arrays that a GGUF file has of the network in a folder of the hub."""
    from wlab import pretrained

    network = pretrained.from_hub(args.source, lazy=True)
    arrays, metadata = pretrained.to_gguf(network, dtype=args.dtype)
    write = weight_files.writer(args.target, metadata, force=args.force or args.dry_run)
    return Source(args.source, "hub", arrays), write


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
