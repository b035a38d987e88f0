"""`wlab perplexity NAME|PATH TEXT`: how well a decoder foretells a text."""

import argparse
import time
from typing import Any

from wlab.cli import reading, shelf
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
    written = reading.written(args.text, args, part="test")
    network = shelf.network(args.network, args)
    tokens = reading.tokenizer(network, args.network).encode(written)
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
