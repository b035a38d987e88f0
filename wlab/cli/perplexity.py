"""`wlab perplexity NAME|PATH TEXT`: how well a decoder foretells a text."""

import argparse
import time
from pathlib import Path
from typing import Any

from wlab.cli import shelf
from wlab.cli.number import number


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    shelf.network_arguments(parser, "network")
    flag("text", help="a file, or a text of `wlab data list`, of which the test part is read")
    flag("--context", type=number(int, 1), default=512, help="tokens a window [512]")
    flag("--tokens", type=number(int, 1), help="predict no more than this many [all]")
    flag("--batch", type=number(int, 1), default=4, help="windows at once [4]")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Perplexity, and what it is the exponential of."""
    from wlab import pretrained
    from wlab.data.progress import progress

    began = time.monotonic()
    written = _read(args)
    network = shelf.network(args.network, args)
    if network.tokenizer is None:
        raise ValueError(f"{args.network} has no tokenizer: a text cannot be read.")
    tokens = network.tokenizer.encode(written)
    if args.tokens is not None:
        tokens = tokens[: args.tokens + 1]
    with progress(args.network, len(tokens), unit="tokens") as report:
        found = pretrained.perplexity(
            network, tokens, context=args.context, batch=args.batch, report=report
        )
    return {
        "perplexity": round(found.perplexity, 3),
        "nats": round(found.nats, 4),
        "tokens": found.tokens,
        "context": args.context,
        "seconds": round(time.monotonic() - began, 1),
    }


def text(result: dict[str, Any]) -> str:
    """One line."""
    return (
        f"perplexity {result['perplexity']} ({result['nats']} nats) over {result['tokens']:,} "
        f"tokens, context {result['context']}, {result['seconds']} s"
    )


def _read(args: argparse.Namespace) -> str:
    from wlab import data

    if args.text in data.SOURCES:
        files = data.read_text(args.text, cache=args.cache)
        return files.get("test", next(iter(files.values()))).decode()
    return Path(args.text).read_text()
