"""`wlab verify SRC QUANTIZED`: opens a quantized file as it is served, and compares each leaf.

With `--data` a network that wlab knows reads a text with both sets of weights.
"""

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, Source
from wlab.cli import quantized_files, shelf
from wlab.cli.number import number
from wlab.cli.quantized_source import Opened, named_network, opened, tokens_of
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    flag("source", help="what was quantized: a file, a folder of the hub, or a network by name")
    flag("quantized", type=Path, help="the file that `wlab quantize` wrote")
    flag("--tree", action="store_true", help="compare the leaves of a network, not a file's arrays")
    flag("--worst", type=number(int, 0), default=3, help="entries of largest error a leaf [3]")
    flag("--data", help="a text file, or a text of `wlab data list`, for the network to read")
    flag("--context", type=number(int, 1), default=256, help="tokens a window [256]")
    flag("--tokens", type=number(int, 1), default=4096, help="predict no more than these [4096]")
    flag("--batch", type=number(int, 1), default=4, help="windows at once [4]")
    shelf.places(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What differs, by leaf, and in what the network foretells."""
    began = time.monotonic()
    source = opened(args, args.quantized, quantized_files.served)
    after = quantized_files.served(args.quantized)
    _refuse_others(source, after, args)
    rows = [
        _row(name, array, after.arrays[name], args.worst) for name, array in source.arrays.items()
    ]
    return {
        "source": args.source,
        "quantized": str(args.quantized),
        "leaves": [row for row in rows if row["format"] is not None],
        "equal": [row["leaf"] for row in rows if row["format"] is None and not row["differs"]],
        "others": [row["leaf"] for row in rows if row["format"] is None and row["differs"]],
        "scaled": '"method": "awq"' in str(after.metadata.get("quantized")),
        "text": None if args.data is None else _read_with_both(args, source, after),
        "seconds": round(time.monotonic() - began, 1),
    }


def text(result: dict[str, Any]) -> str:
    """A row a quantized leaf, its worst entries, then the text."""
    lines = []
    if result["leaves"]:
        lines.append(str(from_records([_shown(row) for row in result["leaves"]])))
    lines.append(f"not quantized: {len(result['equal'])} leaves are as they were")
    if result["others"]:
        lines.append(f"not quantized, yet changed: {', '.join(result['others'])}")
    if result["scaled"]:
        lines.append(
            "awq scaled channels, and undid it in other leaves: leaf by leaf more differs than was "
            "rounded; --data compares what the network says"
        )
    read = result["text"]
    if read is not None:
        lines.append(
            f"perplexity {read['perplexity']} → {read['perplexity_after']}, KL {read['kl']} nats, "
            f"the same next token for {read['agreement']:.1%} of {read['tokens']:,}"
        )
    return "\n".join(lines)


def _refuse_others(source: Opened, after: Source, args: argparse.Namespace) -> None:
    for name in (*source.arrays, *after.arrays):
        ours, theirs = source.arrays.get(name), after.arrays.get(name)
        if ours is None or theirs is None:
            where = args.quantized if ours is None else args.source
            raise ValueError(
                f"leaf {name!r} is in {where} only. Compare with what was quantized; if that was "
                "done with --tree, or by gptq or awq, give --tree here too."
            )
        if ours.shape != theirs.shape:
            raise ValueError(
                f"leaf {name!r} is {list(ours.shape)} in {args.source}, {list(theirs.shape)} in "
                f"{args.quantized}: they are not of one network."
            )


def _row(name: str, before: Lazy, after: Lazy, worst: int) -> dict[str, Any]:
    x, y = (np.asarray(each.read()) for each in (before, after))
    differs = x.tobytes() != y.tobytes()
    row = {"leaf": name, "format": after.encoding, "differs": differs}
    if after.encoding is None:
        return row
    x, y = (each.astype(np.float64) for each in (x, y))
    errors = np.abs(x - y)
    noise, signal = np.square(errors).sum(), np.square(x).sum()
    at = np.argsort(-errors, axis=None, kind="stable")[:worst]
    return row | {
        "weights": x.size,
        "sqnr_db": 10 * math.log10(signal / noise) if noise and signal else None,
        "largest_error": float(errors.max(initial=0)),
        "worst": [
            {
                "index": [int(i) for i in np.unravel_index(flat, x.shape)],
                "before": float(x.flat[flat]),
                "after": float(y.flat[flat]),
            }
            for flat in at
        ],
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    worst = "; ".join(
        f"{e['index']} {e['before']:.4g} → {e['after']:.4g}".replace(", ", ",")
        for e in row["worst"]
    )
    kept = ("leaf", "format", "weights", "sqnr_db", "largest_error")
    return {**{key: row[key] for key in kept}, "worst": worst or None}


def _read_with_both(args: argparse.Namespace, source: Opened, after: Source) -> dict[str, Any]:
    from wlab.cli.logit_distance import logit_distance

    network = named_network(args)
    tokens = tokens_of(network, args)[: args.tokens + 1]
    found = logit_distance(
        network,
        _params(network, source, after),
        tokens,
        context=min(args.context, len(tokens) - 1),
        batch=args.batch,
    )
    return {
        "perplexity": round(math.exp(found.nats), 4),
        "perplexity_after": round(math.exp(found.nats_after), 4),
        "kl": round(found.kl, 6),
        "agreement": found.agreement,
        "tokens": found.tokens,
    }


def _params(network: Any, source: Opened, after: Source) -> Any:
    """The weights of the quantized file in the network's tree."""
    import jax

    from wlab import pretrained, tree
    from wlab.pretrained.networks.gguf import gguf_map
    from wlab.pretrained.networks.network import shapes

    if source.network is None:
        like = shapes(network.params)
        gguf = source.format == "gguf"
        name_map = gguf_map(network.config) if gguf else network.name_map
        return pretrained.load(after, name_map, like).params
    arrays = {name: jax.numpy.asarray(array.read()) for name, array in after.arrays.items()}
    return tree.replace(network.params, arrays)
