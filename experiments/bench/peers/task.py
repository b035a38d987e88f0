"""What both sides of a comparison are given: the same numbers, from the same file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from experiments.runner import write_text
from wlab.checkpoint import load_npz, save_npz

Arrays: TypeAlias = dict[str, np.ndarray]
Work: TypeAlias = Callable[[], Mapping[str, Any]]
"""Does the whole of it anew at each call; gives arrays of either library, by name."""


class Task(NamedTuple):
    """Work to be done.

    Attributes:
        settings: Numbers and names.
        weights: Nested dicts, as wlab has them: a kernel is inputs by outputs.
        data: What they are shown, by name.
    """

    settings: dict[str, Any]
    weights: Any
    data: Arrays


def save_task(directory: Path, task: Task) -> None:
    """Writes a task below a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    save_npz(directory / "task.npz", {"weights": task.weights, "data": task.data})
    write_text(directory / "task.json", json.dumps(task.settings, indent=2) + "\n")


def load_task(directory: Path) -> Task:
    """Reads it again."""
    arrays = load_npz(directory / "task.npz")
    settings = json.loads((directory / "task.json").read_text())
    return Task(settings, arrays["weights"], arrays["data"])
