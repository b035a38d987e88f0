"""Networks by name: the flags that say which, and what loads them."""

import argparse
import difflib
import logging
import time
from pathlib import Path
from typing import Any

from wlab.cli import packed_files
from wlab.cli.memory import most_resident, resident

_NETWORK = "a name of `wlab weights list`, a folder of the hub, a GGUF file, or `wlab shrink`'s"
_log = logging.getLogger("wlab.cli")


def places(parser: argparse.ArgumentParser) -> None:
    """Declares where files are: `--file` and `--cache`."""
    parser.add_argument(
        "--file", type=Path, help="the package's archive or a folder with the files, if you have it"
    )
    parser.add_argument(
        "--cache", type=Path, help="the folder of all data ($WLAB_CACHE or ~/.cache/wlab)"
    )


def network_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Declares a network, and where its weights are."""
    parser.add_argument(name, help=_NETWORK)
    parser.add_argument(
        "--weights-file",
        type=Path,
        metavar="FILE",
        help="weights instead of its own: of `wlab prune`, `quantize`, `merge` or `convert`",
    )
    places(parser)


def network(name: str, args: argparse.Namespace, **options: Any) -> Any:
    """The network of this name: one of the shelf, a folder of the hub, or a file.

    What loading took goes to the log. `args` say where files are; `options` are those of the
    functions that load, but for files of `wlab shrink`.

    Raises:
        FileNotFoundError: If it names nothing.
        ValueError: If the files are not those of a network that wlab knows.
    """
    import jax  # noqa: F401  its memory is not what the network takes

    from wlab import pretrained, tree

    refuse_nowhere(name)
    before, began = resident(), time.monotonic()
    file = getattr(args, "weights_file", None)
    if file is not None:
        options["lazy"] = True
    found = _loaded(name, args, **options)
    if file is not None:
        found = pretrained.refilled(found, packed_files.opened(file))
    spent, most = time.monotonic() - began, most_resident()
    peak = ""
    if before is not None and most is not None:
        peak = f", {(most - before) / 1e6:.0f} MB at the peak beyond importing JAX"
    _log.info(
        "%s: %s weights, %.0f MB, loaded in %.2f s%s",
        name,
        f"{tree.count(found.params):,}",
        tree.nbytes(found.params) / 1e6,
        spent,
        peak,
    )
    return found


def is_named(name: str) -> bool:
    """Whether it is a name of `wlab weights list`."""
    from wlab.pretrained.sources import SOURCES

    return name in SOURCES


def refuse_nowhere(name: str) -> None:
    """Tells what may have been meant, and the remedy.

    Raises:
        FileNotFoundError: If it is neither a path that is here nor a network on the shelf.
    """
    from wlab.pretrained.sources import SOURCES

    if is_named(name) or Path(name).exists():
        return
    near = difflib.get_close_matches(name, SOURCES, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise FileNotFoundError(
        f"Nothing at {name}, and no such name in `wlab weights list`{meant}. "
        "`hf download OWNER/NAME --local-dir FOLDER` gets a network from the hub."
    )


def _loaded(name: str, args: argparse.Namespace, **options: Any) -> Any:
    from wlab import pretrained

    path = Path(name)
    if is_named(name):
        return pretrained.network(name, file=args.file, cache=args.cache, **options)
    if path.suffix == ".safetensors":
        return pretrained.from_shrunk(packed_files.opened(path), file=args.file, cache=args.cache)
    return (pretrained.from_hub if path.is_dir() else pretrained.from_gguf)(path, **options)
