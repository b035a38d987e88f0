"""`wlab filters NAME|FOLDER`: what a network's first convolution looks for in images."""

import argparse
from pathlib import Path
from typing import Any

from wlab.cli import shelf
from wlab.cli.number import number
from wlab.extras import required
from wlab.table import from_records

_DIRECTIONS = 6


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    shelf.network_arguments(parser, "network")
    flag("--leaf", help="another convolution's path, as in `wlab weights show` [the first one]")
    flag("--out", type=Path, metavar="FILE.png", help="draw the filters (extra `images`)")
    flag("--zoom", type=number(int, 1, 64), default=8, help="pixels a side of each weight [8]")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """How many filters are waves, in which directions, and of how many shuffled ones."""
    import numpy as np

    from wlab import tree
    from wlab.inspection import filters

    params = tree.leaves(shelf.network(args.network, args).params)
    leaves = {path: leaf for path, leaf in params.items() if leaf.ndim == 4}
    path = args.leaf or _first(leaves, args.network)
    if path not in leaves:
        raise ValueError(f"{path} is no convolution of {args.network}: {', '.join(leaves)}.")
    kernel = np.asarray(leaves[path])
    if args.out is not None:
        _draw(filters.sheet(kernel, zoom=args.zoom), args.out)
    found, control = filters.waves(kernel), filters.waves(filters.shuffled(kernel))
    angles = found.angle[found.oriented]
    directions, _ = np.histogram(angles, bins=_DIRECTIONS, range=(0, np.pi))
    return {
        "leaf": path,
        "shape": list(kernel.shape),
        "waves": int(found.oriented.sum()),
        "share": round(float(np.median(found.share)), 4),
        "control_waves": int(control.oriented.sum()),
        "control_share": round(float(np.median(control.share)), 4),
        "directions": directions.tolist(),
        "picture": None if args.out is None else str(args.out),
    }


def text(result: dict[str, Any]) -> str:
    """A table of the filters and their control, and the directions."""
    height, width, inputs, count = result["shape"]
    rows = [
        {
            "filters": name,
            "oriented waves": f"{result[prefix + 'waves']} of {count}",
            "energy in one wave, median": result[prefix + "share"],
        }
        for name, prefix in (("as trained", ""), ("pixels shuffled", "control_"))
    ]
    lines = [f"{result['leaf']}: {count} filters of {height} × {width} × {inputs}"]
    lines += [str(from_records(rows)), f"waves in each 30° of direction: {result['directions']}"]
    return "\n".join(lines + ([f"drawn in {result['picture']}"] if result["picture"] else []))


def _first(leaves: dict[str, Any], network: str) -> str:
    """The convolution that reads an image's colours."""
    found = [path for path, leaf in leaves.items() if leaf.shape[2] == 3]
    if len(found) != 1:
        raise ValueError(
            f"{network} has {len(found)} convolutions of three inputs; name one by --leaf."
        )
    return found[0]


def _draw(pixels: Any, path: Path) -> None:
    from wlab.checkpoint.atomic import written_whole

    drawn = required("PIL.Image", extra="images").fromarray(pixels)
    with written_whole(path) as file:
        drawn.save(file, format="png")
