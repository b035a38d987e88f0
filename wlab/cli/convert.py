"""`wlab convert SRC DST`: from any format that wlab reads to any that it writes.

Arrays keep their names, or with `--tree` become the plain tree of a network that wlab knows. They
are read, converted and written one at a time.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy, Source, open_source
from wlab.table import from_records

_DTYPES = ("float32", "float16", "bfloat16")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", type=Path, help="a file of any format wlab reads, or a folder of the hub")
    flag("target", type=Path, help="ends in .safetensors, .npz, .msgpack or .gguf")
    flag("--dtype", choices=_DTYPES, help="of floating arrays [as they are]")
    flag("--tree", action="store_true", help="as the tree of a network that wlab knows")
    flag("--dry-run", action="store_true", help="show what would be written, and write nothing")
    flag("--force", action="store_true", help="replace a target that is there")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was written, or would be."""
    write = _writer(args.target)
    if args.target.exists() and not (args.force or args.dry_run):
        raise FileExistsError(f"{args.target} is there: --force replaces it.")
    source = _opened(args.source)
    arrays = _as_tree(args.source) if args.tree else dict(source.arrays)
    keeps_blocks = args.target.suffix == ".gguf" and args.dtype is None
    found = {
        name: array if keeps_blocks else _plain(array, args.dtype) for name, array in arrays.items()
    }
    rows = [_row(name, arrays[name], found[name]) for name in found]
    total = sum(row["bytes"] for row in rows)
    if not args.dry_run:
        from wlab.data.progress import progress

        with progress(args.target.name, total) as report:
            write(args.target, _counted(found, report), source)
    return {
        "source": str(args.source),
        "format": source.format,
        "target": str(args.target),
        "written": not args.dry_run,
        "bytes": total if args.dry_run else args.target.stat().st_size,
        "arrays": rows,
    }


def text(result: dict[str, Any]) -> str:
    """A line an array, then the sum."""
    verb = "wrote" if result["written"] else "would write"
    sum_up = f"{verb} {len(result['arrays'])} arrays, {result['bytes']:,} bytes: {result['target']}"
    return f"{from_records(result['arrays'])}\n{sum_up}" if not result["written"] else sum_up


def _opened(path: Path) -> Source:
    from wlab.pretrained.networks.hub import weights_of

    return weights_of(path) if path.is_dir() else open_source(path)


def _as_tree(path: Path) -> dict[str, Lazy]:
    import numpy as np

    from wlab import pretrained, tree

    network = pretrained.from_hub(path) if path.is_dir() else pretrained.from_gguf(path)
    arrays = {name: np.asarray(leaf) for name, leaf in tree.leaves(network.params).items()}
    return {
        name: Lazy(array.shape, array.dtype.name, array.nbytes, partial(np.asarray, array))
        for name, array in arrays.items()
    }


def _plain(array: Lazy, wanted: str | None) -> Lazy:
    """The array as plain numbers; floats as `wanted`, if that is said."""
    import numpy as np

    dtype = wanted if wanted is not None and "float" in array.dtype else array.dtype
    nbytes = array.size * np.dtype(dtype).itemsize
    return Lazy(array.shape, dtype, nbytes, lambda: array.read().astype(dtype, copy=False))


def _row(name: str, before: Lazy, after: Lazy) -> dict[str, Any]:
    return {
        "array": name,
        "shape": list(after.shape),
        "from": before.encoding or before.dtype,
        "to": after.encoding or after.dtype,
        "bytes": after.nbytes,
    }


def _counted(arrays: Mapping[str, Lazy], report: Callable[[int], None]) -> dict[str, Lazy]:
    """The same arrays, which tell how many bytes have been read."""
    done = 0

    def count(read: Callable[[], Any]) -> Any:
        nonlocal done
        array = read()
        done += array.nbytes
        report(done)
        return array

    return {
        name: replace(
            array,
            read=partial(count, array.read),
            blocks=None if array.blocks is None else partial(count, array.blocks),
        )
        for name, array in arrays.items()
    }


def _writer(target: Path) -> Callable[[Path, dict[str, Lazy], Source], None]:
    from wlab import checkpoint

    writers = {
        ".safetensors": lambda path, arrays, source: checkpoint.save_safetensors(
            path, arrays, metadata=_words(source)
        ),
        ".npz": lambda path, arrays, source: checkpoint.save_npz(path, arrays),
        ".msgpack": lambda path, arrays, source: checkpoint.save_msgpack(path, arrays),
        ".gguf": lambda path, arrays, source: checkpoint.save_gguf(
            path, arrays, metadata=source.metadata if source.format == "gguf" else {}
        ),
    }
    if target.suffix not in writers:
        raise ValueError(f"{target} must end in {', '.join(writers)}.")
    return writers[target.suffix]


def _words(source: Source) -> dict[str, str]:
    """What a safetensors file can say beside its arrays: plain text."""
    return {key: value for key, value in source.metadata.items() if isinstance(value, str)}
