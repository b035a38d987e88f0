"""MNIST: 60,000 + 10,000 handwritten digits of 28×28 (LeCun, Cortes & Burges 1998)."""

from pathlib import Path

from wlab.data.arrays import Arrays, Dataset
from wlab.data.fetch import fetch
from wlab.data.idx import read_idx


def mnist(*, file: str | Path | None = None, cache: str | Path | None = None) -> Dataset:
    """Reads MNIST, fetched if need be; arguments and errors as in `fetch`."""
    folder = fetch("mnist", file=file, cache=cache)
    return Dataset(_split(folder, "train"), _split(folder, "t10k"), name="mnist", classes=10)


def _split(folder: Path, prefix: str) -> Arrays:
    label = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
    return {
        "image": read_idx(folder / f"{prefix}-images-idx3-ubyte"),
        "label": label.astype("int32"),
    }
