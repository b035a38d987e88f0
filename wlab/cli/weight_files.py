"""What the verbs that write files of weights share: what they open, write and count."""

import argparse
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from wlab.checkpoint import Lazy, Source
from wlab.cli import packed_files, shelf
from wlab.table import from_records

Write: TypeAlias = Callable[[Path, Mapping[str, Lazy]], None]
DTYPES = ("float32", "float16", "bfloat16")
_COMPANIONS = (".json", ".txt", ".model", ".jinja")
ENDINGS = (".safetensors", ".npz", ".msgpack", ".gguf")
SOURCE = "a file of any format, a folder of the hub, or a name of `wlab weights list`"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what all writing verbs take."""
    flag = parser.add_argument
    flag("--dtype", choices=DTYPES, help="of floating arrays [as they are]")
    flag("--dry-run", action="store_true", help="show what would be written, and write nothing")
    flag("--force", action="store_true", help="replace a target that is there")


def is_orbax(name: str) -> bool:
    """Whether it is a folder, and none of the hub: one that orbax has written, if any."""
    path = Path(name)
    return not shelf.is_named(name) and path.is_dir() and not (path / "config.json").exists()


def orbax_arrays(path: str) -> dict[str, Any]:
    """The numeric arrays that orbax has written into a folder; keys of random numbers are none."""
    import numpy as np

    from wlab.checkpoint import load
    from wlab.tree import leaves

    found = leaves(load(path))
    return {
        name: leaf
        for name, leaf in found.items()
        if isinstance(getattr(leaf, "dtype", None), np.dtype)
    }


def source_of(name: str, args: argparse.Namespace) -> Source:
    """The weights of a file, a folder, or a network on the shelf, in their own names.

    Args:
        name: A path, or one of `wlab weights list`.
        args: With `file` and `cache`.

    Raises:
        FileNotFoundError: If it names nothing.
        ValueError: If the format is not known or the file is damaged, saying how.
    """
    from wlab import pretrained

    shelf.refuse_nowhere(name)
    if shelf.is_named(name):
        return pretrained.source(name, file=args.file, cache=args.cache)
    return packed_files.opened(Path(name))


def ending(path: Path) -> str:
    """As `.gguf`; empty for the name of a folder, as `Llama-3.2-1B`: endings begin with letters."""
    return path.suffix if path.suffix[1:2].isalpha() else ""


def file_in(target: Path, like: str) -> Path:
    """The file of the weights: the target, or in it if that has no ending: a folder of the hub.

    Raises:
        ValueError: If it would be a folder like one that is none, or that folder itself.
    """
    if ending(target):
        return target
    if target.exists() and target.samefile(like):
        raise ValueError(f"{target} would replace itself file by file: name another folder.")
    if not Path(like).is_dir():
        raise ValueError(
            f"{target} has no ending, so it would be a folder like {like}, which is none. "
            f"End it in {', '.join(ENDINGS)}."
        )
    return target / "model.safetensors"


def words_in(target: Path) -> dict[str, str]:
    """What the file of the weights has to say for transformers to read it in a folder."""
    return {} if ending(target) else {"format": "pt"}


def make_folder(target: Path, like: str) -> None:
    """Makes the folder and what is in it beside the weights, if the target is to be one."""
    if not ending(target):
        target.mkdir(parents=True, exist_ok=True)
        copy_beside(Path(like), target)


def copy_beside(folder: Path, target: Path, *, but: str = "") -> None:
    """Copies configuration and vocabulary; no weights, no list of them, nothing that is code."""
    for file in sorted(folder.iterdir()):
        listed = file.name == but or file.name.endswith(".index.json")
        if file.suffix in _COMPANIONS and not listed:
            shutil.copyfile(file, target / file.name)


def writer(target: Path, metadata: Mapping[str, Any], *, force: bool) -> Write:
    """The function that writes `target`, by its ending; `metadata` goes where there is a place.

    Raises:
        FileExistsError: If the target is there and is not to be replaced.
        ValueError: If nothing writes files of that ending.
    """
    from wlab import checkpoint

    if target.suffix not in ENDINGS:
        raise ValueError(f"{target} must end in {', '.join(ENDINGS)}.")
    if target.exists() and not force:
        raise FileExistsError(f"{target} is there: --force replaces it.")
    words = {key: value for key, value in metadata.items() if isinstance(value, str)}
    return {
        ".safetensors": partial(checkpoint.save_safetensors, metadata=words),
        ".npz": checkpoint.save_npz,
        ".msgpack": checkpoint.save_msgpack,
        ".gguf": partial(checkpoint.save_gguf, metadata=metadata),
    }[target.suffix]


def write(write: Write, target: Path, arrays: Mapping[str, Lazy]) -> None:
    """Writes the arrays one at a time, with a progress bar in bytes."""
    from wlab.data.progress import progress

    with progress(target.name, sum(array.nbytes for array in arrays.values())) as report:
        write(target, _counted(arrays, report))


def text(result: dict[str, Any]) -> str:
    """A line an array if nothing was written, then the sum."""
    verb = "wrote" if result["written"] else "would write"
    sum_up = f"{verb} {len(result['arrays'])} arrays, {result['bytes']:,} bytes: {result['target']}"
    return sum_up if result["written"] else f"{from_records(result['arrays'])}\n{sum_up}"


def _counted(arrays: Mapping[str, Lazy], report: Callable[[int], None]) -> dict[str, Lazy]:
    """The same arrays, which tell how many bytes have been read."""
    done = 0

    def count(read: Callable[[], Any]) -> Any:
        nonlocal done
        array = read()
        done += array.nbytes
        report(done)
        return array

    return {
        name: replace(
            array,
            read=partial(count, array.read),
            blocks=None if array.blocks is None else partial(count, array.blocks),
        )
        for name, array in arrays.items()
    }
