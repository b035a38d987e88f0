"""Where metrics go: JSON lines always, TensorBoard and Weights & Biases when installed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from wlab.extras import required

Writer: TypeAlias = Callable[[int, dict[str, float]], None]


def jsonl(path: str | Path) -> Writer:
    """Appends one JSON object a call, `{"step": ..., name: value}`; flushed at once.

    A line cut off by a kill is ended first, so the file stays readable line by line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")

    def write(step: int, values: dict[str, float]) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    return write


def tensorboard(path: str | Path) -> Writer:
    """Writes TensorBoard scalars (extra `tensorboard`)."""
    board = required("tensorboardX", extra="tensorboard").SummaryWriter(str(path))

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)
        board.flush()

    return write


def wandb(project: str, *, config: dict[str, Any] | None = None) -> Writer:
    """Logs to Weights & Biases (extra `wandb`)."""
    run = required("wandb", extra="wandb").init(project=project, config=config)
    return lambda step, values: run.log(values, step=step)
