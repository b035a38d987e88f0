"""`wlab classify NAME|FOLDER IMAGE …`: what a network sees in photographs (extra `images`)."""

import argparse
from pathlib import Path
from typing import Any

from wlab.cli import shelf
from wlab.cli.number import number
from wlab.extras import required
from wlab.table import from_records


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    shelf.network_arguments(parser, "network")
    flag("image", nargs="+", type=Path, help="files that Pillow reads")
    flag("--top", type=number(int, 1), default=3, help="classes to show [3]")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row an image and class, the likeliest first."""
    import jax
    import numpy as np

    from wlab import pretrained

    network = shelf.network(args.network, args)
    if network.prepare is None:
        raise ValueError(f"{args.network} reads no images, or does not say how.")
    if not network.labels:
        raise ValueError(f"{args.network} names no classes.")
    pixels = np.stack([_square(path, network.image_size) for path in args.image])
    logits = pretrained.class_logits(network, pixels)
    rows = []
    for path, odds in zip(args.image, np.asarray(jax.nn.softmax(logits)), strict=True):
        for index in np.argsort(-odds)[: args.top]:
            found = {"class": network.labels[index], "probability": round(float(odds[index]), 3)}
            rows.append({"image": str(path), **found})
    return rows


def text(result: list[dict[str, Any]]) -> str:
    """A table."""
    return str(from_records(result))


def _square(path: Path, size: int) -> Any:
    """The middle of a photograph, as large as the network wants it."""
    import numpy as np

    Image = required("PIL.Image", extra="images")
    with Image.open(path) as image:
        side = min(image.size)
        left, top = ((n - side) // 2 for n in image.size)
        middle = image.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(middle.resize((size, size), Image.Resampling.BILINEAR))
