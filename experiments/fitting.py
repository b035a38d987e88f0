"""Training that is cut off and goes on from the last steps that were saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wlab import checkpoint, training


def fit(
    step: training.Compiled,
    state: training.TrainState,
    batch_at: Callable[[int], Any],
    *,
    steps: int,
    directory: Path | None,
    every: int = 50,
) -> training.TrainState:
    """`training.fit` up to `steps`, saved under the directory, if one is given."""
    if directory is None:
        return training.fit(step, state, batch_at, steps=steps)
    with checkpoint.Saver(directory, keep=2) as saver:
        if checkpoint.steps(saver.root):
            state = saver.restore(state).state
        save = training.Every(every, saver.save)
        return training.fit(step, state, batch_at, steps=steps, save=save)
