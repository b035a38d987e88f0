"""What `wlab data` and `wlab weights` have in common: a list of sources, and one of them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wlab.cli import shelf
from wlab.data import Source


def arguments(
    parser: argparse.ArgumentParser, actions: tuple[str, ...], names: Mapping[str, Source]
) -> None:
    """Declares the flags."""
    parser.add_argument("action", choices=actions)
    parser.add_argument("name", nargs="?", choices=names, help="which one")
    shelf.places(parser)
    parser.set_defaults(usage_error=parser.error)


def refuse_misuse(args: argparse.Namespace) -> None:
    """Exits with 2 if `list` has a name or another action has none."""
    if (args.action == "list") != (args.name is None):
        args.usage_error(f"`list` takes no name, and `{args.action}` needs one.")


def row(name: str, source: Source, folder: Path) -> dict[str, Any]:
    """A source as people see it: what it is, where it comes from, where it is."""
    package = source.archives[0]
    return {
        "name": name,
        "package": f"{package.client} {package.package} {package.version}",
        "download_mb": round(package.nbytes / 1e6, 1),
        "folder": str(folder) if folder.exists() else None,
        "about": source.about,
    }
