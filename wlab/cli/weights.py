"""`wlab weights list`, `fetch NAME` and `show NAME`: real networks and where they are."""

import argparse
from pathlib import Path
from typing import Any

from wlab.pretrained.sources import SOURCES
from wlab.table import Table, from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("action", choices=("list", "fetch", "show"))
    parser.add_argument("name", nargs="?", choices=SOURCES, help="which network")
    parser.add_argument(
        "--file", type=Path, help="the package's archive or a folder with the files, if you have it"
    )
    parser.add_argument(
        "--cache", type=Path, help="the folder of all data ($WLAB_CACHE or ~/.cache/wlab)"
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a network; of `show`, one row a leaf."""
    if (args.action == "list") != (args.name is None):
        args.usage_error("`list` takes no name, `fetch` and `show` need one.")
    if args.action == "show":
        from wlab.pretrained import network

        planned = network(args.name, file=args.file, cache=args.cache).plan
        return planned.table.records()
    if args.action == "fetch":
        from wlab.pretrained import fetch

        fetch(args.name, file=args.file, cache=args.cache)
    return [_row(name, args.cache) for name in ([args.name] if args.name else SOURCES)]


def text(result: list[dict[str, Any]]) -> str:
    """A table, or the folder that was asked for."""
    if len(result) == 1:
        return result[0]["folder"]
    if "leaf" in result[0]:
        return str(Table(tuple(result[0]), tuple(tuple(row.values()) for row in result)))
    return str(from_records(result))


def _row(name: str, cache: Path | None) -> dict[str, Any]:
    from wlab.data import cache_folder

    source, folder = SOURCES[name], cache_folder(cache) / "weights" / name
    package = source.archives[0]
    return {
        "name": name,
        "package": f"{package.client} {package.package} {package.version}",
        "download_mb": round(package.nbytes / 1e6, 1),
        "folder": str(folder) if folder.exists() else None,
        "about": source.about,
    }
