"""A dataset in memory: equally long numpy arrays by name. Row i of each is sample i."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A training and a test set.

    Attributes:
        train: `image` (uint8, sample first, colours last) and `label` (int32).
        test: The same, of samples that are not in `train`.
        name: What was really loaded, for reports.
        classes: The number of labels.
        peak: The pixel value of full ink or full light.
    """

    train: Arrays
    test: Arrays
    name: str
    classes: int
    peak: int = 255


def size(arrays: Arrays) -> int:
    """The number of samples.

    Raises:
        ValueError: If there is no array or the arrays differ in length.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"arrays must be equally long and at least one, got lengths {lengths}.")
    return next(iter(lengths.values()))


def take(arrays: Arrays, rows: Any) -> dict[str, np.ndarray]:
    """The given rows (indices, a mask or a slice) of every array."""
    return {name: array[rows] for name, array in arrays.items()}
