"""Times wlab beside torch: whole decoders pruned and rounded, and a population of tickets.

Each side has processes of its own, pinned to the same two cores, which take turns; torch has one
with a thread and one with two, and the better counts. It is plain torch, not `torch.compile`; what
wlab compiles anew at each call counts. What both found is held side by side.

Run     make .venv-peers/.ready
        .venv-peers/bin/python -m experiments.bench.peers.run [NAME ...] [--rounds N] [--by-block]
        A small one: --rows 4 --context 64 --blocks 2 --steps 50 --members 2
Cost    not measured as a whole; an estimated hour on two idle cores, 20 minutes of it for wanda
        with --rounds 2
Wanted  wanda, sparsegpt and gptq in half of torch's time, tickets in a fifth of a plain loop's and
        a seventh of one in the style of open_lth; seen: 1.53, 1.49, 1.35, 0.28 and 0.18 of it
Writes  runs/bench/peers/<name>.json, or runs/bench/peers/small/<name>.json of other sizes
"""

import argparse
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.pair import summary
from experiments.bench.peers import agreement, prepared
from experiments.bench.peers.prepared import Size
from experiments.bench.peers.task import Arrays, Task, save_task
from experiments.bench.peers.turns import Side, Told, take_turns
from experiments.bench.run import PACKAGES, machine, save
from wlab.table import Table

DIRECTORY = Path("runs/bench/peers")
THREADS = (1, 2)
A_CORE_EACH = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"


class Comparison(NamedTuple):
    """A run in which all sides take turns.

    Attributes:
        name: What is compared; also the file of the result.
        method: As `worker.work_of` has it.
        bars: Torch's sides, and the share of each one's time that ours should stay under.
        prepare: Makes the task.
        agree: Holds ours beside theirs.
    """

    name: str
    method: str
    bars: dict[str, float | None]
    prepare: Callable[[], Task]
    agree: Callable[[Task, Arrays, Arrays], dict[str, Any]]


def comparisons(size: Size) -> list[Comparison]:
    """All there are."""

    def decoder(method: str, network: str) -> Comparison:
        prepare = partial(prepared.decoder, network, size, DIRECTORY / "stories")
        name = f"{method}-{network}" + "-by-block" * size.by_block
        return Comparison(name, method, {"torch": 1 / 2}, prepare, agreement.of_decoders)

    loops = {"plain": 1 / 5, "open-lth": 1 / 7, "fused": None}
    prepare = partial(prepared.population, size)
    return [
        decoder("wanda", "smollm2-135m"),
        decoder("sparsegpt", "stories15m"),
        decoder("gptq", "stories15m"),
        Comparison("tickets", "tickets", loops, prepare, agreement.of_populations),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, runs what is named, and prints a table and what is apart."""
    options, size = _parse(arguments)
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(
            "This environment lacks torch, which only the extra `peers` brings: "
            "`make .venv-peers/.ready`, then .venv-peers/bin/python -m experiments.bench.peers.run"
        )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, options.cores)  # its processes take after it
    directory = DIRECTORY if size == Size(by_block=size.by_block) else DIRECTORY / "small"
    records = []
    for one in comparisons(size):
        if not options.names or any(map(one.name.startswith, options.names)):
            for record in compare(one, size, rounds=options.rounds):
                print(_line(record), flush=True)
                save(record, directory)
                records.append(record)
    print(table(records))


def compare(one: Comparison, size: Size, *, rounds: int) -> Iterator[dict[str, Any]]:
    """A record for each of torch's sides."""
    task, place = one.prepare(), DIRECTORY / "task" / one.name
    save_task(place, task)
    sides = _sides(one, task)
    before = os.getloadavg()[0]
    told = take_turns(one.method, sides, place, rounds)
    best = {name: _best(told, sides, name) for name in one.bars}
    results = [dict(np.load(path)) for path in told.found]
    for name, bar in one.bars.items():
        at = best[name]
        timing = asdict(summary(told.seconds[:, [0, at]]))
        yield {
            "name": one.name if len(one.bars) == 1 else f"{one.name}-{name}",
            "against": _column(sides[at]),
            **timing,
            "bar": bar,
            "under_bar": None if bar is None else timing["low"] <= bar,
            "least_s": float(told.seconds[:, 0].min()),
            "baseline_least_s": float(told.seconds[:, at].min()),
            "seconds": {_column(s): told.seconds[:, i].tolist() for i, s in enumerate(sides)},
            "compile_s": float(np.median(told.compiling[:, 0])),
            "first_s": told.first[0],
            "apart": one.agree(task, results[0], results[at]),
            "size": size._asdict(),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in (*PACKAGES, "torch")},
            "machine": machine() | {"load": round(before, 1)},
        }


def table(records: Sequence[dict[str, Any]]) -> Table:
    """A row a record: seconds of a whole flow, or of a step of a network."""
    columns = ("name", "against", "times as fast", "low", "high", "wanted", "holds")
    columns += ("min s", "median s", "its min s", "its median s", "of ours compiling")
    rows = tuple(
        (
            *(one["name"], one["against"]),
            *(1 / one[key] for key in ("ratio", "high", "low")),
            *(one["bar"] and 1 / one["bar"], one["under_bar"]),
            *(one[k] for k in ("least_s", "median_s", "baseline_least_s", "baseline_s")),
            one["compile_s"],
        )
        for one in records
    )
    return Table(columns, rows)


def _sides(one: Comparison, task: Task) -> list[Side]:
    steps = task.settings.get("steps", 1)
    spread = {"XLA_FLAGS": A_CORE_EACH} if one.method == "tickets" else {}
    ours = Side("ours", units=steps * task.settings.get("members", 1), environment=spread)
    torch = (
        Side(name, threads, units=steps, environment={"OMP_NUM_THREADS": str(threads)})
        for name in one.bars
        for threads in THREADS
    )
    return [ours, *torch]


def _best(told: Told, sides: Sequence[Side], name: str) -> int:
    """The column of a side with the number of threads that suits it better."""
    columns = [i for i, side in enumerate(sides) if side.name == name]
    return min(columns, key=lambda i: float(np.median(told.seconds[:, i])))


def _column(side: Side) -> str:
    return (
        f"{side.name}, {side.threads} thread{'s' * (side.threads > 1)}"
        if side.threads
        else side.name
    )


def _line(record: dict[str, Any]) -> str:
    apart = record["apart"]
    return (
        f"{record['name']}: {apart['moved']:,} of {apart['entries']:,} entries apart "
        f"({apart['zero_on_one_side']:,} zero on one side), most in {apart['worst']} "
        f"({apart['worst_share']:.2g}); losses {apart['our_loss']:.6f} and "
        f"{apart['their_loss']:.6f}, {apart['loss_apart']:.1e} apart"
    )


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Size]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="run those that begin so")
    parser.add_argument("--rounds", type=int, default=7, help="measured turns (default 7)")
    parser.add_argument("--cores", default="0,1", help="pin to these (default 0,1)")
    for name, default in Size()._asdict().items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=int, default=default, help=f"default {default}")
    options = parser.parse_args(arguments)
    options.cores = [int(core) for core in options.cores.split(",")]
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    size = Size(**{name: getattr(options, name) for name in Size._fields})
    known = [one.name for one in comparisons(size)]
    for name in options.names:
        if not any(one.startswith(name) for one in known):
            parser.error(f"nothing begins with {name!r}; there are {', '.join(known)}")
    return options, size


if __name__ == "__main__":
    main()
