"""`wlab merge METHOD MODEL… --out TARGET`: several models of one shape made one, leaf by leaf.

Models are files of any format wlab reads, folders of the hub, or names of `wlab weights list`; no
more than one leaf of each is in memory. Where the target has no ending, it becomes a folder like
the first model's.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wlab.checkpoint import Source
from wlab.cli import shelf, weight_files
from wlab.cli.number import number

METHODS = {
    "linear": ("weights", "sum"),
    "slerp": ("t",),
    "task-arithmetic": ("weights",),
    "ties": ("weights", "density", "signs", "scale"),
    "dare": ("weights", "density", "signs", "seed"),
    "model-stock": (),
}
_OPTIONS = sorted({name for names in METHODS.values() for name in names})
_SIGNS = ("mergekit", "peft", "peft-frequency")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("method", choices=METHODS)
    flag("models", nargs="+", metavar="MODEL", help=weight_files.SOURCE)
    flag("--out", type=Path, required=True, metavar="TARGET", help="a file, or a folder's name")
    flag("--base", help="what the models were tuned from, for all but linear and slerp")
    flag("--keep", action="append", default=[], metavar="REGEX", help="leaves not to merge")
    flag("--weights", type=_numbers, help="one for all models, or one each, as 1,0.5 [1]")
    flag("--sum", action="store_true", default=None, help="linear: do not divide by the weights")
    flag("--t", type=number(float, 0, 1), help="slerp: place on the arc [0.5]")
    flag("--density", type=number(float, 0, 1), help="ties, dare: share of each change that stays")
    flag("--signs", choices=_SIGNS, help="ties, dare: how signs are elected [ties: mergekit]")
    flag("--scale", type=float, help="ties: what the merged change is multiplied with [1]")
    flag("--seed", type=number(int, 0, 2**32 - 1), help="dare: what is dropped [0]")
    flag("--mixed-dtypes", action="store_true", help="models may differ in their float dtypes")
    weight_files.arguments(parser)
    shelf.places(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was written, or would be."""
    _refuse_misuse(args)
    sources = [weight_files.source_of(name, args) for name in args.models]
    recipe = _recipe(args)
    target = weight_files.file_in(args.out, args.models[0])
    words = weight_files.words_in(args.out) | dict(sources[0].metadata)
    words = {"merged": json.dumps(recipe)} | words
    metadata = words if target.suffix != ".gguf" or sources[0].format == "gguf" else {}
    write = weight_files.writer(target, metadata, force=args.force or args.dry_run)
    found = _merged(args, sources)
    if not args.dry_run:
        weight_files.make_folder(args.out, args.models[0])
        weight_files.write(write, target, found)
    total = sum(array.nbytes for array in found.values())
    return {
        **recipe,
        "target": str(target),
        "written": not args.dry_run,
        "bytes": total if args.dry_run else target.stat().st_size,
        "arrays": [
            {"array": n, "shape": list(a.shape), "dtype": a.dtype, "bytes": a.nbytes}
            for n, a in found.items()
        ],
    }


text = weight_files.text


def _refuse_misuse(args: argparse.Namespace) -> None:
    """Exits with 2 if a flag is not one of the method's, or one that it needs is missing."""
    for name in _OPTIONS:
        if getattr(args, name) is not None and name not in METHODS[args.method]:
            args.usage_error(f"{args.method} takes no --{name}.")
    if "density" in METHODS[args.method] and args.density is None:
        args.usage_error(f"{args.method} needs --density, as 0.2.")


def _recipe(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, to be kept beside the weights."""
    options = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    return {
        "method": args.method,
        "models": args.models,
        "base": args.base,
        "keep": args.keep,
        **options,
    }


def _merged(args: argparse.Namespace, sources: Sequence[Source]) -> dict[str, Any]:
    """The leaves, none of them merged yet."""
    import jax
    import numpy as np

    from wlab import merging
    from wlab.checkpoint import Lazy

    def leaf(merged: merging.MergedLeaf) -> Lazy:
        nbytes = int(np.prod(merged.shape)) * np.dtype(merged.dtype).itemsize
        whole = Lazy(merged.shape, merged.dtype, nbytes, merged.read)
        return whole.plain(args.dtype)

    base = None if args.base is None else weight_files.source_of(args.base, args)
    merged = merging.merge_lazily(
        _method(args),
        [_parent(*pair) for pair in zip(args.models, sources, strict=True)],
        base=None if base is None else _parent(str(args.base), base),
        rules=[(pattern, None) for pattern in args.keep],
        key=jax.random.key(args.seed or 0),
        mixed_dtypes=args.mixed_dtypes,
    )
    return {name: leaf(each) for name, each in merged.items()}


def _method(args: argparse.Namespace) -> Any:
    from wlab import merging

    conventions = dict(
        zip(_SIGNS, (merging.MERGEKIT, merging.PEFT, merging.PEFT_FREQUENCY), strict=True)
    )
    given = {name: getattr(args, name) for name in METHODS[args.method]}
    given = {name: value for name, value in given.items() if value is not None}
    given.pop("seed", None)
    if given.pop("sum", None):
        given["normalize"] = False
    if "signs" in given:
        given["convention"] = conventions[given.pop("signs")]
    makers: Mapping[str, Callable[..., Any]] = {
        "linear": merging.Linear,
        "slerp": merging.Slerp,
        "task-arithmetic": merging.TaskArithmetic,
        "ties": merging.Ties,
        "dare": merging.Dare,
        "model-stock": merging.ModelStock,
    }
    return makers[args.method](**given)


def _parent(name: str, source: Source) -> Any:
    """The model with what must agree: its arrays and, where the files tell, its vocabulary."""
    from wlab import merging

    return merging.Parent(source.arrays, name=name, vocab=_vocab(Path(name), source.metadata))


def _vocab(path: Path, metadata: Mapping[str, Any]) -> list[str] | None:
    from wlab.checkpoint.formats.json_text import json_object

    words = path / "tokenizer.json"
    if not words.is_file():
        return metadata.get("tokenizer.ggml.tokens")
    vocab = json_object(words).get("model", {}).get("vocab")
    return sorted(vocab, key=vocab.__getitem__) if isinstance(vocab, dict) else None


def _numbers(text: str) -> float | list[float]:
    found = [float(part) for part in text.split(",")]
    return found if len(found) > 1 else found[0]
