"""What a body makes of every example: computed once, kept beside the results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from experiments.transfer.task import Task
from wlab import data, transfer
from wlab.checkpoint.atomic import written_whole

_AT_ONCE = 50


def with_features(task: Task, directory: Path) -> Task:
    """The task, where every example has its `features` too."""
    parts = {part: _kept(task, part, directory) for part in ("train", "test")}
    return replace(task, **parts)


def _kept(task: Task, part: str, directory: Path) -> data.Arrays:
    path, examples = directory / f"features-{task.name}-{part}.npy", getattr(task, part)
    if not path.exists():
        with written_whole(path) as file:
            np.save(file, _features(task, examples))
    return {**examples, "features": np.load(path)}


def _features(task: Task, examples: data.Arrays) -> Float32[np.ndarray, "n width"]:
    body, statistics = task.body
    inputs = {name: array for name, array in examples.items() if name != "label"}
    starts = range(0, len(examples["label"]), _AT_ONCE)
    batches = (data.take(inputs, slice(i, i + _AT_ONCE)) for i in starts)
    parts = transfer.features(lambda p, b: task.features(p, statistics, b, False)[0], body, batches)
    return np.concatenate([*parts])
