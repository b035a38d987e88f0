"""`wlab convert SRC DST`: from any format that wlab reads to any that it writes.

Arrays keep their names, or with `--tree` become the plain tree of a network that wlab knows; those
of LLaMA's kin take ggml's in a `.gguf` file, which llama.cpp reads, and the hub's in a folder. They
are read, converted and written one at a time.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from wlab.checkpoint import Lazy, Source
from wlab.cli import shelf, weight_files
from wlab.cli.quantized_source import leaves_of, named_network

_Made: TypeAlias = tuple[Mapping[str, Lazy], weight_files.Write]  # arrays, and what writes them


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", help=weight_files.SOURCE)
    flag("target", type=Path, help=f"ends in {', '.join(weight_files.ENDINGS)}, or a folder")
    flag("--tree", action="store_true", help="as the tree of a network that wlab knows")
    weight_files.arguments(parser)
    shelf.places(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was written, or would be."""
    target, source = args.target, weight_files.source_of(args.source, args)
    renamed = target.suffix == ".gguf" and not args.tree and _is_llama(args.source, source)
    if weight_files.ending(target) == "":
        arrays, write = _in_hub_names(args)
    elif renamed:
        arrays, write = _in_ggml_names(args)
    else:
        arrays, write = _in_own_names(args, source)
    as_is = renamed or (target.suffix == ".gguf" and args.dtype is None)
    found = {name: array if as_is else array.plain(args.dtype) for name, array in arrays.items()}
    if not args.dry_run:
        weight_files.write(write, target, found)
    total = sum(array.nbytes for array in found.values())
    written = target if weight_files.ending(target) else target / "model.safetensors"
    return {
        "source": args.source,
        "format": source.format,
        "target": str(target),
        "written": not args.dry_run,
        "bytes": total if args.dry_run else written.stat().st_size,
        "arrays": [_row(name, arrays[name], found[name]) for name in found],
    }


text = weight_files.text


def _in_own_names(args: argparse.Namespace, source: Source) -> _Made:
    """The arrays as the source names them, or the leaves of its network."""
    keeps_metadata = args.target.suffix != ".gguf" or source.format == "gguf"
    write = _writer(args, source.metadata if keeps_metadata else {})
    return leaves_of(named_network(args, lazy=True)) if args.tree else source.arrays, write


def _in_hub_names(args: argparse.Namespace) -> _Made:
    """The arrays that a folder of the hub has of a network."""
    from wlab.pretrained.networks.hub_writing import to_hub, write_folder

    path = Path(args.source)
    runs = shelf.is_named(args.source) or path.is_dir() or path.suffix == ".gguf"
    if args.tree or not runs:
        raise ValueError(
            f"{args.target} has no ending, so it would be a folder of the hub, which a GGUF file, "
            "another folder or a name of `wlab weights list` becomes. "
            f"End it in {', '.join(weight_files.ENDINGS)}."
        )
    if args.target.exists() and not (args.force or args.dry_run):
        raise FileExistsError(f"{args.target} is there: --force replaces its files.")
    network = named_network(args, lazy=True)
    arrays, config = to_hub(network, dtype=args.dtype)

    def write(target: Path, found: Mapping[str, Lazy]) -> None:
        write_folder(target, found, config, network.tokenizer)

    return arrays, write


def _in_ggml_names(args: argparse.Namespace) -> _Made:
    """The arrays that a GGUF file has of a network."""
    from wlab import pretrained

    arrays, metadata = pretrained.to_gguf(named_network(args, lazy=True), dtype=args.dtype)
    return arrays, _writer(args, metadata)


def _writer(args: argparse.Namespace, metadata: Mapping[str, Any]) -> weight_files.Write:
    return weight_files.writer(args.target, metadata, force=args.force or args.dry_run)


def _is_llama(name: str, source: Source) -> bool:
    """Whether it is a network that GGUF files can hold, and is in none yet."""
    from wlab.checkpoint.formats.json_text import json_object
    from wlab.pretrained.networks.hub_llama import FAMILIES

    sizes = Path(name) / "config.json"
    known = sizes.is_file() and json_object(sizes).get("model_type") in FAMILIES
    return known or source.format == "llama2c"


def _row(name: str, before: Lazy, after: Lazy) -> dict[str, Any]:
    return {
        "array": name,
        "shape": list(after.shape),
        "from": before.encoding or before.dtype,
        "to": after.encoding or after.dtype,
        "bytes": after.nbytes,
    }
