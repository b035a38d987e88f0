"""`wlab data list` and `wlab data fetch NAME`: datasets and where they are."""

import argparse
from typing import Any

from wlab.cli import sources
from wlab.data import SOURCES, cache_folder, fetch
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    sources.arguments(parser, ("list", "fetch"), SOURCES)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a dataset: all of them, or the one that was fetched."""
    sources.refuse_misuse(args)
    if args.action == "fetch":
        fetch(args.name, file=args.file, cache=args.cache)
    folder = cache_folder(args.cache)
    names = [args.name] if args.name else SOURCES
    return [sources.row(name, SOURCES[name], folder / name) for name in names]


def text(result: list[dict[str, Any]]) -> str:
    """A table, or the folder that was asked for."""
    return result[0]["folder"] if len(result) == 1 else str(from_records(result))
