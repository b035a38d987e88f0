"""`wlab weights list`, `fetch NAME` and `show NAME`: real networks and where they are."""

import argparse
from typing import Any

from wlab.cli import sources
from wlab.pretrained.sources import SOURCES
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    sources.arguments(parser, ("list", "fetch", "show"), SOURCES)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a network: all of them, or the one that was fetched; of `show`, one row a leaf."""
    from wlab import pretrained
    from wlab.data import cache_folder

    sources.refuse_misuse(args)
    if args.action == "show":
        network = pretrained.network(args.name, file=args.file, cache=args.cache)
        return network.plan.table.records()
    if args.action == "fetch":
        pretrained.fetch(args.name, file=args.file, cache=args.cache)
    folder = cache_folder(args.cache) / "weights"
    names = [args.name] if args.name else SOURCES
    return [sources.row(name, SOURCES[name], folder / name) for name in names]


def text(result: list[dict[str, Any]]) -> str:
    """A table, or the folder that was asked for."""
    return result[0]["folder"] if len(result) == 1 else str(from_records(result))
