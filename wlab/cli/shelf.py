"""What the verbs of data and networks have in common: lists of sources, flags, networks by name."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wlab.data import Source


def arguments(
    parser: argparse.ArgumentParser, actions: tuple[str, ...], names: Mapping[str, Source]
) -> None:
    """Declares the flags."""
    parser.add_argument("action", choices=actions)
    parser.add_argument("name", nargs="?", choices=names, help="which one")
    places(parser)
    parser.set_defaults(usage_error=parser.error)


def places(parser: argparse.ArgumentParser) -> None:
    """Declares where files are: `--file` and `--cache`."""
    parser.add_argument(
        "--file", type=Path, help="the package's archive or a folder with the files, if you have it"
    )
    parser.add_argument(
        "--cache", type=Path, help="the folder of all data ($WLAB_CACHE or ~/.cache/wlab)"
    )


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


def network(args: argparse.Namespace) -> Any:
    """The network that `args.network` names: one of the shelf, a folder of the hub, or a GGUF file.

    Raises:
        ValueError: If the files are not those of a network that wlab knows.
    """
    from wlab import pretrained

    if args.network in pretrained.SOURCES:
        return pretrained.network(args.network, file=args.file, cache=args.cache)
    if Path(args.network).is_dir():
        return pretrained.from_hub(args.network)
    return pretrained.from_gguf(args.network)
