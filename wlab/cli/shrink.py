"""`wlab shrink SRC DST --multiply-adds 0.5`: a network without its smallest channels and heads.

Those with the smallest norm go, all that is coupled to them counted; with no share asked for, those
whose weights are zero already. What is left computes what the network does with their weights at
zero, and that is checked. The verbs that take a network take the file; LLaMA's kin can become a
GGUF file or a folder of the hub.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wlab.cli import choosing_units, shelf, thinning, weight_files
from wlab.cli.number import number
from wlab.table import from_records

_ENDINGS = (".safetensors", ".gguf", "")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag, share = parser.add_argument, number(float, 0, 1)
    shelf.network_arguments(parser, "source")
    flag("target", type=Path, help=".safetensors; of LLaMA's kin .gguf, or a folder of the hub")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument("--density", type=share, help="the fraction of units kept, in each group")
    shares.add_argument("--multiply-adds", type=share, help="the largest share kept of them")
    shares.add_argument("--weights", type=share, help="the largest share kept of them")
    thinning.rules_argument(
        parser,
        "groups of units, by the names that --dry-run shows; the first match counts [all that the "
        "network makes]",
    )
    flag("--round-to", type=number(int, 1), default=1, help="keep multiples of so many units [1]")
    flag("--tokens", type=number(int, 1), default=128, help="that multiply-adds are of [128]")
    weight_files.arguments(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was taken out and written, or would be."""
    _refuse_misuse(args)
    from wlab import pretrained, tree

    network = shelf.network(args.source, args)
    groups = pretrained.units(network, tokens=args.tokens)
    counts = choosing_units.counts(network, groups, args.tokens)
    keep = choosing_units.kept(args, network, groups, counts)
    small = pretrained.shrunk(network, keep)
    apart = pretrained.verify_shrunk(network, small, keep)
    small = _in_dtype(small, args.dtype)
    if not args.dry_run:
        _write(args, small, keep)
    sizes = {name: [count(of) for of in ({}, keep)] for name, count in counts.items()} | {
        "bytes": [tree.nbytes(x.params) for x in (network, small)]
    }
    return {
        "source": args.source,
        "target": str(args.target),
        "written": not args.dry_run,
        "groups": _rows(groups, keep),
        "totals": [
            {
                "what": what.replace("_", "-"),
                "before": before,
                "after": after,
                "left": after / before,
            }
            for what, (before, after) in sizes.items()
        ],
        "apart": apart,
    }


def text(result: dict[str, Any]) -> str:
    """A row a group, the sums, and how far it is from the masked network."""
    verb = "wrote" if result["written"] else "would write"
    return (
        f"{from_records(result['groups'])}\n\n{from_records(result['totals'])}\n"
        f"{result['apart']:.1e} of the largest result apart from the network with those weights "
        f"at zero\n{verb} {result['target']}"
    )


def _refuse_misuse(args: argparse.Namespace) -> None:
    if weight_files.ending(args.target) not in _ENDINGS:
        args.usage_error(f"{args.target} must end in .safetensors or .gguf, or be a folder.")
    if args.rules and choosing_units.share(args) is None:
        args.usage_error("--rules go with --density, --multiply-adds or --weights.")
    if args.target.exists() and not (args.force or args.dry_run):
        raise FileExistsError(f"{args.target} is there: --force replaces it.")


def _in_dtype(small: Any, dtype: str | None) -> Any:
    """The network with its floating weights in another dtype, if one is given."""
    import jax.numpy as jnp

    from wlab import tree

    if dtype is None:
        return small

    def cast(path: str, x: Any) -> Any:
        del path
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return replace(small, params=tree.map_leaves(cast, small.params))


def _write(args: argparse.Namespace, small: Any, keep: Mapping[str, Any]) -> None:
    from wlab import checkpoint, pretrained

    if args.target.suffix == ".safetensors":
        pretrained.save_shrunk(args.target, small, keep, of=args.source)
    elif args.target.suffix == ".gguf":
        arrays, metadata = pretrained.to_gguf(small)
        weight_files.write(partial(checkpoint.save_gguf, metadata=metadata), args.target, arrays)
    else:
        pretrained.save_hub(args.target, small)


def _rows(groups: Any, keep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups, and how many of their units stay."""
    records = groups.table().records()
    return [
        {
            "group": row["group"],
            "units": row["units"],
            "kept": int(keep[row["group"]].sum()) if row["group"] in keep else row["units"],
            "weights a unit": row["weights a unit"],
        }
        for row in records
    ]
