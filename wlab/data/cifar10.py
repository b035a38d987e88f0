"""CIFAR-10: 50,000 + 10,000 colour photographs of 32×32 (Krizhevsky 2009)."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wlab.data.arrays import Arrays, Dataset
from wlab.data.fetch import fetch
from wlab.extras import required


def cifar10(*, file: str | Path | None = None, cache: str | Path | None = None) -> Dataset:
    """Reads CIFAR-10, fetched if need be; arguments and errors as in `fetch`.

    Raises:
        ImportError: If Pillow, which decodes the files, is not installed.
    """
    folder = fetch("cifar10", file=file, cache=cache)
    sheets = [f"data_batch_{i}.png" for i in range(1, 6)]
    train = _split(folder, sheets, "train_lables.json")
    test = _split(folder, ["test_batch.png"], "test_lables.json")
    return Dataset(train, test, name="cifar10", classes=10)


def _split(folder: Path, sheets: Sequence[str], labels: str) -> Arrays:
    images = [_sheet(folder / name) for name in sheets]
    label = np.array(json.loads((folder / labels).read_text()), np.int32)
    return {"image": np.concatenate(images), "label": label}


def _sheet(path: Path) -> UInt8[np.ndarray, "n 32 32 3"]:
    """A sheet has one photograph a row."""
    with required("PIL.Image", extra="images").open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
