"""Opens and reads damaged files of one format, in a process of its own.

A process of its own, because a hang or a crash is then a failure like any other, and because
run-time type checks would take most of the time: they compile each closure when it is made.
"""

import importlib
import itertools
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from fuzz import mutations

from wlab.checkpoint.source import Source

CONSTANT = 1 << 20  # bytes that opening and reading may take, whatever the files' size
FACTOR = 64  # bytes that they may take for each byte of the files


def all_rows() -> list[tuple[str, str]]:
    """The module and the name of each row in the `fuzz_rows_*.py` beside this file."""
    modules = sorted(file.stem for file in Path(__file__).parent.glob("fuzz_rows_*.py"))
    return [(module, name) for module in modules for name in importlib.import_module(module).ROWS]


def read_everything(source: Source) -> None:
    for lazy in source.arrays.values():
        array = lazy.read()
        assert (array.shape, array.dtype.name) == (lazy.shape, lazy.dtype)
        if lazy.blocks is not None:
            assert lazy.blocks().nbytes == lazy.nbytes


def damage(module: str, name: str, folder: Path, *, count: int, seconds: float) -> None:
    """Damages the sample of a row in many ways, and fails unless each is read or refused.

    Ends after `count` damaged files or after so many seconds, and prints how many there were.
    """
    write, open_ = importlib.import_module(module).ROWS[name]
    path = folder / "sample"
    write(path)
    read_everything(open_(path))  # also loads what is loaded on first use
    sound, refused = path.read_bytes(), 0
    beside = sum(file.stat().st_size for file in folder.rglob("*") if file != path)
    tracemalloc.start()
    until, number = time.monotonic() + seconds, 0
    for number, damaged in enumerate(itertools.islice(mutations(sound, seed=0), count)):
        if time.monotonic() > until:
            break
        path.unlink()  # some file systems wait for the disk if a file is written over
        path.write_bytes(damaged)
        bound = CONSTANT + FACTOR * (len(damaged) + beside)
        try:
            was_refused, peak = _read_or_refused(open_, path)
            if peak > bound:  # a table of the interpreter's may have grown: it won't grow again
                was_refused, peak = _read_or_refused(open_, path)
        except Exception as error:
            raise AssertionError(f"damage {number}: neither read nor refused") from error
        assert peak <= bound, f"damage {number}: {peak:,}"
        refused += was_refused
    assert refused > number // 10
    print(f"{name}: {number + 1:,} damaged files, {refused:,} refused")


def _read_or_refused(open_: Callable[[Path], Source], path: Path) -> tuple[bool, int]:
    """Whether the file is refused by a ValueError that names it, and the bytes this took."""
    tracemalloc.reset_peak()
    before, refused = tracemalloc.get_traced_memory()[0], False
    try:
        read_everything(open_(path))
    except ValueError as error:
        assert str(path.parent) in str(error), f"the file is not named: {error}"
        refused = True
    return refused, tracemalloc.get_traced_memory()[1] - before
