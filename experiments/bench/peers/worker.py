"""One side of a comparison, in a process of its own: does its work once for each line it is told.

Run: python -m experiments.bench.peers.worker METHOD SIDE THREADS DIRECTORY
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.peers.task import Task, Work, load_task
from wlab.checkpoint import save_npz


def main() -> None:
    """Answers `go` with the seconds that it took, and `save` by writing what it found."""
    method, side, threads, directory = sys.argv[1:]
    if side != "ours":
        _limit_torch(int(threads))
    compiling = _compile_seconds()
    work, found = work_of(method, side, load_task(Path(directory))), {}
    for line in sys.stdin:
        if line.strip() == "go":
            before, start = sum(compiling), time.perf_counter()
            found = work()
            seconds = time.perf_counter() - start
            _answer({"seconds": seconds, "compile": sum(compiling) - before})
        else:
            path = Path(directory) / f"{side}-{threads}.npz"
            save_npz(path, {name: np.asarray(array) for name, array in found.items()})
            _answer({"path": str(path)})


def work_of(method: str, side: str, task: Task) -> Work:
    """The work of a side, ready to be done.

    Raises:
        ValueError: If there is no such method or side.
    """
    from experiments.bench.peers import gptq, sparsegpt, tickets, wanda

    sides = {
        "wanda": {"ours": wanda.ours, "torch": wanda.theirs},
        "sparsegpt": {"ours": sparsegpt.ours, "torch": sparsegpt.theirs},
        "gptq": {"ours": gptq.ours, "torch": gptq.theirs},
        "tickets": {
            "ours": tickets.ours,
            "plain": tickets.plain,
            "fused": partial(tickets.plain, fused=True),
            "open-lth": tickets.open_lth,
        },
    }
    if side not in sides.get(method, {}):
        raise ValueError(f"{method!r} by {side!r} is not compared.")
    return sides[method][side](task)


def _limit_torch(threads: int) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)


def _compile_seconds() -> list[float]:
    """Grows by the seconds of each compilation in this process."""
    found: list[float] = []

    def heard(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event.endswith("backend_compile_duration"):
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(heard)
    return found


def _answer(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
