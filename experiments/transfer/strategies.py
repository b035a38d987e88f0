"""Is it better to train a new head alone, or everything?

Two networks learn something else than they were trained for, from few, more and all examples:
MiniLM (sentences) the newsgroup of a letter, ResNet-50 (ImageNet) the classes of CIFAR-10. A
head on cached features; everything at one rate, from a head of zeros or from that head; ULMFiT's
gradual way, with rates that fall by 2.6 a layer; and the same network from scratch, which says what
transfer is worth.

Run     python -m experiments.transfer.strategies
Cost    minutes on a GPU; on 2 CPU cores 2.2 hours of letters with --seeds 3 --scratch-seeds 1, and
        1.2 more of photos; a run that is cut off goes on with the next network
Paper   Howard & Ruder 2018 (arXiv:1801.06146), table 7: error on IMDb / TREC-6 / AG from scratch
        9.93 / 13.36 / 6.81, last layer 6.49 / 16.09 / 8.38, everything 6.87 / 6.86 / 5.81, gradual,
        discriminative and slanted 5.00 / 5.69 / 5.38. Kumar et al. 2022 (arXiv:2202.10054) begin
        with the head.
Expect  the head alone loses to the best way of tuning at every number of labels (letters 46 / 29 /
        23 % against 40 / 28 / 16 %, photos 33 / 19 % against 32 / 15 %), but beats a hasty one: in
        one epoch of 1,000 letters everything, from a head of zeros, errs on 53 %
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import runner
from experiments.transfer.features import with_features
from experiments.transfer.kept import kept_error, spread
from experiments.transfer.letters import letters
from experiments.transfer.photos import photos
from experiments.transfer.task import Task, few, held_out
from experiments.transfer.tuning import Tuned, Tuner, Way, head_tuner, tuner
from wlab.table import Table
from wlab.transform import Params

HEAD, EVERYTHING, HEAD_FIRST, GRADUAL, SCRATCH = (
    *("head alone", "everything", "head, then everything", "gradual", "scratch"),
)
LABELS = {"letters": (100, 1000, 0), "photos": (100, 2000)}
HELD_OUT = 2000
RATES = {  # at the peak; the best of these times 0.1, 1/3, 1 and 3, with --held-out
    "letters": {HEAD: 3e-3, EVERYTHING: 3e-4, HEAD_FIRST: 1e-4, GRADUAL: 3e-3, SCRATCH: 1e-4},
    "photos": {HEAD: 1e-3, EVERYTHING: 3e-5, HEAD_FIRST: 3e-5, GRADUAL: 3e-4, SCRATCH: 1e-3},
}
OTHER_RATES = {("photos", 100, HEAD_FIRST): 3e-6}  # where so few labels want another one


@dataclass(frozen=True)
class Config:
    """Settings."""

    tasks: str = field(default="letters,photos", metadata={"help": "which, with commas"})
    seeds: int = field(default=5, metadata={"help": "draws of examples, and orders"})
    scratch_seeds: int = field(default=3, metadata={"help": "likewise, from scratch"})
    epochs: int = field(default=1, metadata={"help": "over the examples"})
    least: int = field(default=64, metadata={"help": "steps, where the examples are few"})
    head_least: int = field(default=1000, metadata={"help": "likewise, of the head alone"})
    batch: int = field(default=16, metadata={"help": "examples a step"})
    factor: float = field(default=1.0, metadata={"help": "times every rate"})
    held_out: bool = field(default=False, metadata={"help": "judge on training examples"})


class Cell(NamedTuple):
    """A network of the page."""

    task: str
    labels: int
    way: str
    seed: int

    def path(self, directory: Path) -> Path:
        """Where its error is kept."""
        name = f"{self.task}-{self.labels or 'all'}-{self.way}-{self.seed}.json"
        return directory / name.replace(",", "").replace(" ", "-")


def rate_of(cell: Cell) -> float:
    """The peak rate of its task and way, or the one of its own."""
    return OTHER_RATES.get(cell[:3], RATES[cell.task][cell.way])


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every network of the page; what is in the directory already is not trained again."""

    @cache
    def task_of(name: str) -> Task:
        task = {"letters": letters, "photos": photos}[name]()
        task = held_out(task, HELD_OUT) if config.held_out else task
        return with_features(task, directory)

    @cache
    def tuner_of(name: str, labels: int, way: str) -> Tuner:
        task = task_of(name)
        examples = labels or len(task.train["label"])
        if way == HEAD:  # next to nothing a step
            return head_tuner(task, steps=max(config.head_least, 10 * examples // 32), batch=32)
        tuned = Way(way, fresh=way == SCRATCH, gradual=way == GRADUAL)
        steps = max(config.least, config.epochs * examples // config.batch)
        return tuner(task, tuned, steps=steps, batch=config.batch)

    def tuned(cell: Cell, factor: float, head: Params | None = None) -> Tuned:
        task, tune = task_of(cell.task), tuner_of(*cell[:3])
        train, rate = few(task, cell.labels, cell.seed), factor * rate_of(cell)
        return tune(train, task.test, rate=rate, seed=cell.seed, head=head)

    def measure(cell: Cell) -> float:
        if cell.way != HEAD_FIRST:
            return tuned(cell, config.factor).right
        head = tuned(cell._replace(way=HEAD), 1.0).params["head"]
        return tuned(cell, config.factor, head).right

    networks = [
        cell._asdict() | {"error": kept_error(cell.path(directory), lambda c=cell: measure(c))}
        for cell in _cells(config)
    ]
    return {"networks": networks, "device": jax.devices()[0].device_kind}


def show(results: dict[str, Any]) -> str:
    """Errors in %, a row a way, a column a number of examples."""
    errors: dict[str, dict[int, dict[str, list[float]]]] = {}
    for one in results["networks"]:
        by_way = errors.setdefault(one["task"], {}).setdefault(one["labels"], {})
        by_way.setdefault(one["way"], []).append(one["error"])
    return "\n\n".join(
        str(
            Table(
                (f"{task}, error %", *(f"{labels or 'all'} labels" for labels in found)),
                tuple(
                    (way, *(spread(by_way[way]) for by_way in found.values()))
                    for way in next(iter(found.values()))
                ),
            )
        )
        for task, found in errors.items()
    )


def _cells(config: Config) -> list[Cell]:
    return [
        Cell(task, labels, way, seed)
        for task in config.tasks.split(",")
        for labels in LABELS[task]
        for way in RATES[task]
        for seed in range(config.scratch_seeds if way == SCRATCH else config.seeds)
    ]


if __name__ == "__main__":
    runner.main(run, Config, name="transfer-strategies", show=show)
