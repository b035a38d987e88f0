"""`wlab evaluate NAME|FOLDER DATASET`: how often a network names what is in a photograph."""

import argparse
import time
from typing import Any

from wlab.cli import shelf
from wlab.cli.number import number


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    shelf.network_arguments(parser, "network")
    flag("data", help="a dataset of `wlab data list`, of whose test part the images are")
    flag("--images", type=number(int, 1), help="look at no more than this many [all]")
    flag("--batch", type=number(int, 1), default=100, help="images at once [100]")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """How many images got their own class, of how many."""
    from wlab import data, pretrained
    from wlab.data.progress import progress

    test = data.load(args.data, cache=args.cache).test
    network = shelf.network(args.network, args)
    images, labels = (test[name][: args.images] for name in ("image", "label"))
    began = time.monotonic()
    with progress(args.network, len(images), unit="images") as report:
        found = pretrained.accuracy(network, images, labels, batch=args.batch, report=report)
    return {
        "accuracy": round(found.accuracy, 6),
        "right": found.right,
        "images": found.images,
        "seconds": round(time.monotonic() - began, 1),
    }


def text(result: dict[str, Any]) -> str:
    """One line."""
    return (
        f"{100 * result['accuracy']:.2f} % right: {result['right']:,} of {result['images']:,} "
        f"images, {result['seconds']} s"
    )
