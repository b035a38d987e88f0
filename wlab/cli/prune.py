"""`wlab prune SRC DST --density 0.5`: zeroes the weights of a file that matter least.

By magnitude leaves are read, pruned and written one at a time; only `--allocation globally` first
holds all that it ranks. `--method wanda` and `sparsegpt` need a network that wlab knows and a text,
and hold the network twice. `--packed` writes leaves without their zeros, and holds those until all
are pruned. Where the target has no ending, it becomes a folder of the hub like the source.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source
from wlab.cli import by_text, packed_files, pruned_by_text, shelf, thinning, weight_files
from wlab.cli.number import number
from wlab.table import from_records

_ALLOCATIONS = ("uniform", "globally", "erk")
_REMAINDERS = ("refuse", "dense", "share")
_SHOWN = 8
_OPTIONS = ("method", "density", "rules", "allocation", "keep", "of", "axis", "remainder")
_READING = ("data", "context", "windows")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", help=weight_files.SOURCE)
    flag("target", type=Path, help=f"ends in {', '.join(weight_files.ENDINGS)}, or a folder")
    flag(
        "--method",
        choices=("magnitude", *pruned_by_text.METHODS),
        default="magnitude",
        help="what weights are ranked by; sparsegpt also changes those that stay [magnitude]",
    )
    flag("--density", type=number(float, 0, 1), help="the fraction kept")
    thinning.rules_argument(
        parser,
        "leaves; the first match counts [floats of two or more axes, without embeddings and norms]",
    )
    flag("--allocation", choices=_ALLOCATIONS, help="how the density is divided [uniform]")
    flag("--keep", type=number(int, 1, 256), help="N:M instead of a density: kept of each group")
    flag("--of", type=number(int, 2, 256), help="N:M: neighbours in a group")
    flag("--axis", type=int, help="N:M: along which they stand [-2, the inputs; of PyTorch's -1]")
    flag("--remainder", choices=_REMAINDERS, help="N:M: what a last short group becomes [refuse]")
    flag("--packed", action="store_true", help="without the zeros, where that takes fewer bytes")
    by_text.arguments(parser, pruned_by_text.METHODS)
    weight_files.arguments(parser)
    shelf.places(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was pruned and written, or would be."""
    _refuse_misuse(args)
    source = weight_files.source_of(args.source, args)
    kept: dict[str, int] = {}
    packed: dict[str, Any] = {}
    write = _writer(args, source, packed)
    plain = {name: array.plain(args.dtype) for name, array in source.arrays.items()}
    pruned, losses = _pruned(args, plain)
    noted = {name: _noted(name, array, kept) for name, array in (plain | pruned).items()}
    if not args.dry_run:
        weight_files.make_folder(args.target, args.source)
    weight_files.write(write, weight_files.file_in(args.target, args.source), noted)
    rows = {
        name: _row(name, source.arrays[name], packed.get(name, array), kept[name])
        for name, array in plain.items()
    }
    chosen = [row for name, row in rows.items() if name in pruned]
    return {
        "source": args.source,
        "target": str(args.target),
        "written": not args.dry_run,
        "leaves": chosen,
        "left_alone": [name for name in rows if name not in pruned],
        "totals": [_sum("all pruned", chosen), _sum("the model", list(rows.values()))],
        "losses": losses,
    }


def text(result: dict[str, Any]) -> str:
    """A row a leaf that is pruned, two sums, what was lost and left alone, and the file."""
    left, total = result["left_alone"], result["totals"][-1]
    names = ", ".join(left[:_SHOWN]) + (", …" if len(left) > _SHOWN else "")
    verb = "wrote" if result["written"] else "would write"
    lines = [
        str(from_records([*result["leaves"], *result["totals"]])),
        f"left alone: {len(left)} leaves{f' ({names})' if left else ''}",
        f"{verb} {total['after']:,} bytes of weights: {result['target']}",
    ]
    if losses := result["losses"]:
        worst = max(losses, key=losses.__getitem__)
        middle = statistics.median(losses.values())
        lost = f"lost of a leaf's squared outputs: {middle:.3f} in the middle"
        lines.insert(1, f"{lost}, {losses[worst]:.3f} at most, of {worst}")
    return "\n".join(lines)


def _refuse_misuse(args: argparse.Namespace) -> None:
    """Exits with 2 unless the flags are those of a density or those of N:M."""
    groups = (args.keep, args.of)
    if (None in groups) if args.density is None else any(n is not None for n in groups):
        args.usage_error("give --density, as 0.5, or else --keep and --of, as 2 and 4.")
    if args.density is not None and (args.axis is not None or args.remainder is not None):
        args.usage_error("--axis and --remainder go with --keep and --of.")
    if args.density is None and args.allocation is not None:
        args.usage_error("--allocation divides a --density, which N:M lacks.")
    if args.density is None and any(isinstance(share, float) for _, share in args.rules):
        args.usage_error("with --keep and --of a rule says yes or no, not a density.")
    if args.density is None and args.keep > args.of:
        args.usage_error(f"--keep {args.keep} is more than --of {args.of}.")
    if args.packed and args.target.suffix != ".safetensors":
        args.usage_error(f"--packed writes .safetensors, not {args.target}.")
    by_text.refuse_misuse(args, pruned_by_text.METHODS)
    if args.method != "magnitude" and (args.allocation is not None or args.axis is not None):
        args.usage_error(
            f"--allocation and --axis go with --method magnitude: {args.method} keeps as large a "
            "part of each leaf, and knows which axes are inputs."
        )


def _pruned(args: argparse.Namespace, arrays: Mapping[str, Lazy]) -> pruned_by_text.Pruned:
    """The arrays that are chosen, as they are once they have been read and pruned."""
    if args.method in pruned_by_text.METHODS:
        return pruned_by_text.pruned(args, arrays)
    chosen = _choosers(arrays, args).items()
    thinned = {name: thinning.thinned(name, arrays[name], choose) for name, choose in chosen}
    return pruned_by_text.Pruned(thinned, {})


def _choosers(arrays: Mapping[str, Lazy], args: argparse.Namespace) -> dict[str, thinning.Chooser]:
    from wlab import pruning

    shares = thinning.chosen(arrays, args.rules)
    if args.density is not None:
        allocation = getattr(pruning, args.allocation or "uniform")
        return thinning.by_magnitude(arrays, shares, args.density, allocation)
    remainder = args.remainder or "refuse"
    return thinning.by_neighbours(
        arrays, shares, keep=args.keep, of=args.of, axis=_axis(args), remainder=remainder
    )


def _writer(args: argparse.Namespace, source: Source, packed: dict[str, Any]) -> weight_files.Write:
    """What writes the arrays, or on a dry run only reads them; fills in what was packed."""
    options = _OPTIONS if args.data is None else (*_OPTIONS, *_READING)
    recipe = {name: getattr(args, name) for name in options if getattr(args, name) is not None}
    words = weight_files.words_in(args.target) | dict(source.metadata)
    metadata = words | {"pruned": json.dumps(recipe)}
    keeps_metadata = args.target.suffix != ".gguf" or source.format == "gguf"
    write = weight_files.writer(
        weight_files.file_in(args.target, args.source),
        metadata if keeps_metadata else {},
        force=args.force or args.dry_run,
    )

    def write_packed(target: Path, arrays: Mapping[str, Lazy]) -> None:
        packed.update(packed_files.packed(arrays, _forms(args)))
        if not args.dry_run:
            packed_files.write(target, packed, metadata)

    def read(target: Path, arrays: Mapping[str, Lazy]) -> None:
        del target
        for array in arrays.values():
            array.read()

    return write_packed if args.packed else read if args.dry_run else write


def _forms(args: argparse.Namespace) -> Sequence[Any]:
    from wlab.pruning.forms import NM, Bitmask
    from wlab.pruning.packed_trees import FORMS

    if args.of is None:
        return FORMS
    # A text's methods find the inputs of each array by themselves.
    axes = (_axis(args),) if args.method == "magnitude" else (-2, -1)
    return (*(NM(args.keep, args.of, axis) for axis in axes), Bitmask())


def _axis(args: argparse.Namespace) -> int:
    return -2 if args.axis is None else args.axis


def _noted(name: str, array: Lazy, kept: dict[str, int]) -> Lazy:
    """The same array, which notes how many of its entries are not zero when it is read."""

    def read() -> np.ndarray:
        found = array.read()
        kept[name] = int(np.count_nonzero(found))
        return found

    return replace(array, read=read)


def _row(name: str, before: Lazy, after: Any, kept: int) -> dict[str, Any]:
    form = getattr(after, "form", None)
    return {
        "leaf": name,
        "shape": list(before.shape),
        "weights": before.size,
        "kept": kept,
        "density": kept / max(before.size, 1),
        "form": None if form is None else str(form),
        "before": before.nbytes,
        "after": after.nbytes,
    }


def _sum(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sums = {key: sum(row[key] for row in rows) for key in ("weights", "kept", "before", "after")}
    density = sums["kept"] / max(sums["weights"], 1)
    return {"leaf": name, "shape": None, "density": density, "form": None, **sums}
