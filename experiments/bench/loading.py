"""Filling a tree from a safetensors file, against reading the same bytes; and the memory it takes.

The file is warm: all of it is in the page cache. `cat` reads it through one small buffer, which is
as fast as a disk can seem; `read` into memory of its own, as everybody must who keeps the bytes.

Run: python -m experiments.bench.loading FILE
"""

import json
import mmap
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.bench import Bench, counted, timed
from experiments.bench.pair import Thunk
from wlab.checkpoint import open_source, save_safetensors
from wlab.cli.memory import most_resident, resident
from wlab.pretrained import NameMap, load, move

ROOT = Path(__file__).parents[2]
PAIRS = 20
SLACK = 64 << 20  # bytes allowed beside 1.2 × the tree
_CHUNK = bytearray(1 << 20)


def benches(side: int = 1024, count: int = 32) -> list[Bench]:
    """Rows for `count` kernels of side × side: 128 MiB."""
    make = partial(tree_file, side, count)
    return [
        _bench("load-vs-cat", "cat, 1 MiB at a time", 1 / 0.7, make, through_one_buffer),
        _bench("load-vs-read", "read into new memory", 1 / 0.7, make, into_new_memory),
        Bench("load-memory", "1.2 × tree + 64 MiB", 1.0, lambda pairs: peak_memory(make())),
    ]


def tree_file(side: int, count: int) -> Path:
    """A file of random kernels, which goes when the machine clears its temporary files."""
    path = Path(tempfile.gettempdir()) / f"wlab-bench-{side}-{count}.safetensors"
    rng = np.random.default_rng(0)
    kernels = {f"block_{i}/kernel": rng.random((side, side), np.float32) for i in range(count)}
    save_safetensors(path, kernels)
    return path


def filled(path: Path) -> Any:
    """The tree in the file, each array under its own name."""
    arrays = open_source(path).arrays
    like = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    return load(path, NameMap(tuple(move(name, name) for name in arrays)), like).params


def through_one_buffer(path: Path) -> None:
    """Reads everything and keeps nothing."""
    with path.open("rb", buffering=0) as file:
        while file.readinto(_CHUNK):
            pass


def into_new_memory(path: Path) -> None:
    """Reads everything at once into pages that the process did not have."""
    with path.open("rb", buffering=0) as file, mmap.mmap(-1, path.stat().st_size) as memory:
        file.readinto(memory)


def peak_memory(path: Path) -> dict[str, Any]:
    """What a fresh process takes beyond `import jax`, against what is allowed (Linux)."""
    command = [sys.executable, "-m", "experiments.bench.loading", str(path)]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = json.loads(said)
    return counted(found["peak"] - found["before"], 1.2 * found["tree"] + SLACK, **found)


def _bench(
    name: str,
    against: str,
    bar: float,
    make: Callable[[], Path],
    read: Callable[[Path], Any],
) -> Bench:
    def both() -> tuple[Thunk, Thunk]:
        path = make()
        return lambda: filled(path), lambda: read(path)

    return Bench(name, against, bar, timed(both, at_most=PAIRS))


def _main(path: Path) -> None:
    jax.block_until_ready(jax.numpy.zeros(1))
    before = resident()
    tree = jax.block_until_ready(filled(path))
    nbytes = sum(leaf.nbytes for leaf in tree.values())
    print(json.dumps({"before": before, "peak": most_resident(), "tree": nbytes}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
