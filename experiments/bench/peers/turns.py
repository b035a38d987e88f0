"""Processes that take turns: only one works at a time, and what slows the machine slows all."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[3]
REST = 0.5  # seconds between two turns, in which threads that spin go to sleep


class Side(NamedTuple):
    """Who works.

    Attributes:
        name: As `worker.work_of` has it.
        threads: Torch's; of wlab's side XLA chooses.
        units: What one piece of work counts for: seconds are divided by it.
        environment: Variables of its process.
    """

    name: str
    threads: int = 0
    units: int = 1
    environment: dict[str, str] = {}  # noqa: RUF012


class Told(NamedTuple):
    """What was measured.

    Attributes:
        seconds: A unit of work; a row a round, a column a side.
        compiling: Of those, seconds of compilation, of a whole piece of work.
        first: The seconds of the first piece of each side, which is in no row.
        found: The file of each side's results.
    """

    seconds: np.ndarray
    compiling: np.ndarray
    first: list[float]
    found: list[Path]


def take_turns(method: str, sides: Sequence[Side], directory: Path, rounds: int) -> Told:
    """Each side works once unmeasured, then once in each round, in random order.

    Args:
        method: As `worker.work_of` has it.
        sides: Who works.
        directory: Of the task.
        rounds: How many are measured.

    Raises:
        RuntimeError: If a process ends early; what it said is on the standard error.
    """
    rng, shape = np.random.default_rng(0), (rounds, len(sides))
    seconds, compiling = np.empty(shape), np.empty(shape)
    units = np.asarray([side.units for side in sides])
    with _processes(method, sides, directory) as processes:
        first = [_ask(process, "go")["seconds"] for process in processes]
        for turn in range(rounds):
            for at in rng.permutation(len(sides)):
                time.sleep(REST)
                told = _ask(processes[at], "go")
                seconds[turn, at], compiling[turn, at] = told["seconds"], told["compile"]
        found = [Path(_ask(process, "save")["path"]) for process in processes]
    return Told(seconds / units, compiling, first, found)


@contextmanager
def _processes(
    method: str, sides: Sequence[Side], directory: Path
) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each side; they end with the block."""
    begin = [sys.executable, "-m", "experiments.bench.peers.worker", method]
    processes = [
        subprocess.Popen(
            [*begin, side.name, str(side.threads), str(directory.absolute())],
            env=os.environ | side.environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in sides
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _ask(process: subprocess.Popen[str], what: str) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process has no pipes.")
    try:
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # said below
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended early, with {process.wait()}: {process.args}")
    return json.loads(line)
