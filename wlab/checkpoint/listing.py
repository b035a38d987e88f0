"""What is in a file, from its header alone: nothing here imports JAX or reads weights."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from wlab.checkpoint.safetensors_header import bits, safetensors_header
from wlab.checkpoint.steps import PathLike, latest, step_directories, step_path


@dataclass(frozen=True)
class Entry:
    """One array in a file.

    Attributes:
        path: As `block_0/attn/q/kernel`; in a foreign file, as it is spelled there.
        shape: Its shape.
        dtype: Its NumPy or ml_dtypes name, as `bfloat16`.
        nbytes: Bytes in memory, an int4 being half a byte.
        sharding: How it was laid out when it was saved, as `data=4,model=2: (data, -)`.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    sharding: str | None = None


def listing(path: PathLike) -> list[Entry]:
    """The arrays of a safetensors or npz file, an orbax checkpoint, or the newest of its steps.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is none of these or its header is damaged, saying how.
    """
    from wlab.checkpoint.npz_header import npz_header
    from wlab.checkpoint.orbax_header import orbax_header

    path = Path(path)
    if path.is_dir():
        return [_entry(*found) for found in orbax_header(_newest_step(path))]
    if not path.exists():
        raise FileNotFoundError(f"Nothing at {path}.")
    if path.suffix == ".npz":
        return [_entry(name, *found) for name, found in npz_header(path).items()]
    if path.suffix == ".safetensors":
        tensors = safetensors_header(path).tensors
        return [_entry(name, t.dtype, t.shape) for name, t in tensors.items()]
    raise ValueError(
        f"{path} is not a checkpoint that wlab can list: "
        "expected a .safetensors or .npz file, or an orbax directory."
    )


def _entry(path: str, dtype: str, shape: tuple[int, ...], sharding: str | None = None) -> Entry:
    return Entry(path, shape, dtype, -(-prod(shape) * bits(dtype) // 8), sharding)


def _newest_step(path: Path) -> Path:
    if step_directories(path):
        newest = latest(path)
        if newest is None:
            raise ValueError(f"{path} holds step directories, but none is finished.")
        return step_path(path, newest)
    return path
