"""Files of networks that have lost units: the smaller weights, and which units stay."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wlab import graph
from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.pretrained.named import network as named
from wlab.pretrained.narrowing import narrower, units
from wlab.pretrained.networks import from_gguf, from_hub
from wlab.pretrained.networks.network import Network, shapes, whole_tree, with_leaves
from wlab.pretrained.refilling import by_path
from wlab.pretrained.sources import SOURCES

_KEY = "shrunk"


def save_shrunk(path: str | Path, network: Network, keep: graph.Keep, *, of: str | Path) -> None:
    """Writes what `from_shrunk` reads; the file is whole or not there.

    Args:
        path: Ends in `.safetensors`.
        network: The smaller one, from `shrunk`, trained on or not.
        keep: Which units of the whole network it has.
        of: The whole network, as `from_shrunk` will look for it: one of `wlab weights list`, or
            the path of a folder of the hub, a GGUF file, or a file like this one. A path is
            written as seen from the file, so that both may move together.

    Raises:
        ValueError: If the whole network is, or was made of, the file that is to be written.
    """
    path = Path(path)
    place = str(of) if of in SOURCES else os.path.relpath(of, path.parent)
    _refuse_a_circle(path, place)
    packed = {name: np.packbits(stays).tobytes().hex() for name, stays in keep.items()}
    recipe = {"network": place, "keep": packed}
    save_safetensors(path, whole_tree(network), metadata={_KEY: json.dumps(recipe)})


def from_shrunk(
    path: Source | str | Path,
    *,
    whole: Network | None = None,
    file: str | Path | None = None,
    cache: str | Path | None = None,
) -> Network:
    """The smaller network in a file of `save_shrunk`.

    What computes, prepares and names comes from the whole network; of its weights none is read.

    Args:
        path: The file, or one opened: its arrays may be made when they are read.
        whole: The whole network, if it is not where the file says. Its weights may be `Lazy`.
        file: As of `network`, where the file names one of the shelf.
        cache: Likewise.

    Raises:
        FileNotFoundError: If the whole network is a path where nothing is.
        ValueError: If the file is not of this kind, or does not fit the network.
    """
    source = path if isinstance(path, Source) else open_source(Path(path))
    path = Path(source.path)
    name, kept = _recipe(source)
    if whole is None:
        _refuse_a_circle(path, name)
        whole = _whole(name, path, file=file, cache=cache)
    groups = units(whole)
    keep = _unpacked(kept, groups, path)
    left = narrower(whole, groups, keep)
    like = jax.eval_shape(left.taken, shapes(whole_tree(whole)))
    smaller = replace(whole, model=left.model, config=left.config)
    return with_leaves(smaller, by_path(source, like))


def _recipe(source: Source) -> tuple[str, dict[str, str]]:
    """The whole network, and the units that stay, as the file says them."""
    if _KEY not in source.metadata:
        raise ValueError(
            f"{source.path} is a file of arrays, and what runs them is not known: `save_shrunk` "
            "and `wlab shrink` write files that say it; `refilled`, or --weights-file, puts them "
            "in the place of a network's own."
        )
    try:
        recipe = json.loads(source.metadata[_KEY])
        return str(recipe["network"]), {str(k): str(v) for k, v in recipe["keep"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source.path}: what it was made of is damaged: {error}.") from None


def _refuse_a_circle(path: Path, name: str) -> None:
    """Follows what the files were made of, to the first that is no such file."""
    seen = {path.resolve()}
    while name not in SOURCES:
        path = Path(os.path.normpath(path.parent / name)).resolve()
        if path in seen:
            raise ValueError(f"{path} cannot be made of itself: choose another file to write.")
        if path.suffix != ".safetensors" or not path.is_file():
            return
        seen.add(path)
        name, _ = _recipe(open_source(path))


def _whole(name: str, path: Path, **places: Any) -> Network:
    if name in SOURCES:
        return named(name, lazy=True, **places)
    source = Path(os.path.normpath(path.parent / name))
    if not source.exists():
        raise FileNotFoundError(
            f"{path} was made of {source}, which is not there. Give the network: "
            "from_shrunk(path, whole=from_hub(folder, lazy=True))."
        )
    if source.suffix == path.suffix and source.is_file():
        return from_shrunk(source, **places)
    return (from_hub if source.is_dir() else from_gguf)(source, lazy=True)


def _unpacked(kept: dict[str, str], groups: graph.Groups, path: str | Path) -> graph.Keep:
    """Which units stay, as bools.

    Raises:
        ValueError: If the network has no such group, or one of another size.
    """
    found = {}
    for name, packed in kept.items():
        size = groups.groups[name].size if name in groups.groups else 0
        try:
            bits = np.frombuffer(bytes.fromhex(packed), np.uint8)
        except ValueError:
            raise ValueError(f"{path}: which units of {name!r} stay is damaged.") from None
        if len(bits) != -(-size // 8):
            raise ValueError(
                f"{path}: {name!r} is a group of {8 * len(bits) - 7} to {8 * len(bits)} units, in "
                f"the network it has {size or 'none'}: the file is of another one."
            )
        found[name] = np.unpackbits(bits, count=size).astype(bool)
    return found
