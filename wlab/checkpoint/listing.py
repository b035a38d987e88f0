"""What is in a file, from its header alone: nothing here imports JAX or reads weights."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from wlab.checkpoint.opening import open_source
from wlab.checkpoint.safetensors_header import bits
from wlab.checkpoint.source import Source
from wlab.checkpoint.steps import PathLike, latest, step_directories, step_path


@dataclass(frozen=True)
class Entry:
    """One array in a file.

    Attributes:
        path: As `block_0/attn/q/kernel`; in a foreign file, as it is spelled there.
        shape: Its shape.
        dtype: Its NumPy or ml_dtypes name, as `bfloat16`; of encoded blocks, the file's own.
        nbytes: Its true bytes, an int4 being half a byte.
        sharding: How it was laid out when it was saved, as `data=4,model=2: (data, -)`.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    sharding: str | None = None


def listing(path: PathLike) -> list[Entry]:
    """The arrays of a file that `open_source` knows, an orbax checkpoint, or its newest step.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is none of these or its header is damaged, saying how.
    """
    from wlab.checkpoint.orbax_header import orbax_header

    path = Path(path)
    if path.is_dir():
        return [_entry(*found) for found in orbax_header(_newest_step(path))]
    return listed(open_source(path))


def listed(source: Source) -> list[Entry]:
    """The arrays of one that is open already."""
    return [
        Entry(name, array.shape, array.encoding or array.dtype, array.nbytes)
        for name, array in source.arrays.items()
    ]


def _entry(path: str, dtype: str, shape: tuple[int, ...], sharding: str | None = None) -> Entry:
    return Entry(path, shape, dtype, -(-prod(shape) * bits(dtype) // 8), sharding)


def _newest_step(path: Path) -> Path:
    if step_directories(path):
        newest = latest(path)
        if newest is None:
            raise ValueError(f"{path} holds step directories, but none is finished.")
        return step_path(path, newest)
    return path
