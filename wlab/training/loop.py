"""The loop around a compiled step: metrics one step late, saves, a bar, a polite end."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from wlab.training.compile import Compiled
from wlab.training.gradient import Batch, Metrics
from wlab.training.guard import Guard, NonFiniteError, check
from wlab.training.preemption import Preempted, catch_sigterm
from wlab.training.state import TrainState
from wlab.training.writers import Writer


@dataclass(frozen=True)
class Every:
    """Calls `do(step, state)` after every `steps` steps and after the last one."""

    steps: int
    do: Callable[[int, TrainState], Any]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Every: steps must be at least 1, got {self.steps}.")


def fit(
    step: Compiled,
    state: TrainState,
    batch_at: Callable[[int], Batch],
    *,
    steps: int,
    save: Every | None = None,
    hooks: Sequence[Every] = (),
    writers: Sequence[Writer] = (),
    log_every: int = 100,
    guard: Guard | None = None,
    progress: bool = True,
) -> TrainState:
    """Runs from the state's step up to `steps`.

    Metrics of a step are fetched after the next one was dispatched, so the device never
    waits. On SIGTERM the state is saved at the next step and the process exits with 75.

    Args:
        step: From `compile_step`; it donates its state.
        state: Where to start: step 0, or restored.
        batch_at: The batch of a step number, so that a resumed run sees the same data.
        steps: Optimizer steps in all.
        save: Saves the state; also called on SIGTERM.
        hooks: Called with the state between steps, such as an evaluation.
        writers: Given the metrics of every `log_every`-th step.
        log_every: Steps between metrics.
        guard: The guard the step was made with; it says when to give up.
        progress: Whether to show a bar.

    Raises:
        NonFiniteError: If the loss is NaN or infinite (without a guard), or for too long.
        Preempted: A SystemExit with code 75, after SIGTERM and the save.
    """
    start = int(state.step)
    late: Metrics | None = None
    with catch_sigterm() as stop_now, _bar(start, steps, progress) as advance:
        look = partial(_look, guard=guard, writers=writers, log_every=log_every, advance=advance)
        for done in range(start + 1, steps + 1):
            state, metrics = step(state, batch_at(done - 1))
            if late is not None:
                look(done - 1, late, state)
            late, stop = metrics, stop_now(done)
            if stop or done == steps or _due(done, steps, save):
                # A checkpoint must never hold weights that a late look would have refused.
                look(done, metrics, state)
                late = None
            if save is not None and (stop or _due(done, steps, save)):
                save.do(done, state)
            if stop:
                raise Preempted(done)
            for hook in hooks:
                if _due(done, steps, hook):
                    hook.do(done, state)
    return state


def _due(done: int, steps: int, every: Every | None) -> bool:
    return every is not None and (done % every.steps == 0 or done == steps)


def _look(
    done: int,
    metrics: Metrics,
    state: TrainState,
    *,
    guard: Guard | None,
    writers: Sequence[Writer],
    log_every: int,
    advance: Callable[[int, float], None],
) -> None:
    """Looks at the fetched metrics of one step: health first, then the bar and the writers."""
    fetched = jax.device_get(metrics)
    loss = float(fetched["loss"])
    if guard is not None:
        check(fetched.pop("nonfinite"), guard, state.stored, step=done)
    elif not math.isfinite(loss):
        raise NonFiniteError(
            f"Step {done}: the loss is {loss}. The last saved checkpoint is sound; lower the "
            "learning rate, clip the gradient's norm, or build the step with guard=Guard()."
        )
    advance(done, loss)
    if done % log_every == 0:
        values = {name: float(np.asarray(value)) for name, value in fetched.items()}
        for write in writers:
            write(done, values)


@contextmanager
def _bar(start: int, steps: int, on: bool) -> Iterator[Callable[[int, float], None]]:
    columns = (
        TextColumn("step"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not on) as progress:
        task = progress.add_task("", total=steps, completed=start, loss=math.nan)
        yield lambda done, loss: progress.update(task, completed=done, loss=loss)
