"""How low may the rank of an adapter be?

MiniLM learns the newsgroup of a letter from 1,000 labels, through adapters of several ranks on the
queries and values of every layer, and a new head. The controls are rank 0 (the head alone, through
the same program) and full rank (everything is trained). The classic scale is alpha / r; the
rank-stabilized one, alpha / sqrt(r), should not lose at high ranks.

Run     python -m experiments.transfer.lora_rank
Cost    about 3.5 hours on 2 CPU cores; a run that is cut off goes on with the next network
Paper   Hu et al. 2021 (arXiv:2106.09685), section 7.2: on GPT-3 a very low rank is
        enough, 4 on queries and values giving 73.7 % on WikiSQL and 91.3 % on MultiNLI (table 5)
Expect  error 32 % at rank 1, 31 % at 2, 30 % at 64: no better than the head alone (30 %), and far
        better than everything in so few steps (42 %)
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jax

from experiments import runner
from experiments.transfer.kept import kept_error, spread
from experiments.transfer.letters import letters
from experiments.transfer.strategies import HELD_OUT
from experiments.transfer.task import Task, few, held_out
from experiments.transfer.tuning import Tuner, Way, tuner
from wlab import identity, transfer, tree
from wlab.table import Table
from wlab.transform import WeightTransform

KERNELS = r"body/block_\d+/attn/(q|v)/kernel"
NONE, ALL = "no adapter", "everything"
RATES = {  # at the peak; the best of these times 0.1, 1/3, 1 and 3, with --held-out
    NONE: 3e-2,
    ALL: 3e-4,
    "classic": 3e-3,
    "rank_stabilized": 3e-3,
    "dora": 3e-3,
    "pissa": 3e-3,
}


@dataclass(frozen=True)
class Config:
    """Settings."""

    ranks: str = field(default="1,2,4,8,64", metadata={"help": "of the adapters, with commas"})
    kinds: str = field(default="classic,rank_stabilized,dora,pissa", metadata={"help": "likewise"})
    alpha: float = field(default=16.0, metadata={"help": "of the scale, alpha / r or / sqrt(r)"})
    labels: int = field(default=1000, metadata={"help": "examples to learn from"})
    seeds: int = field(default=5, metadata={"help": "draws of examples, and orders"})
    steps: int = field(default=125, metadata={"help": "of 16 examples; 125 are two epochs"})
    factor: float = field(default=1.0, metadata={"help": "times every rate"})
    held_out: bool = field(default=False, metadata={"help": "judge on training examples"})


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every network of the page; what is in the directory already is not trained again."""

    @cache
    def task() -> Task:
        return held_out(letters(), HELD_OUT) if config.held_out else letters()

    @cache
    def tuner_of(kind: str, rank: int) -> Tuner:
        way = Way(kind, weights=transform(config, kind, rank))
        return tuner(task(), way, steps=config.steps, batch=16)

    def measure(kind: str, rank: int, seed: int) -> float:
        train, rate = few(task(), config.labels, seed), config.factor * RATES[kind]
        return tuner_of(kind, rank)(train, task().test, rate=rate, seed=seed).right

    networks = []
    for kind, rank in _cells(config):
        for seed in range(config.seeds):
            path = directory / f"{kind.replace(' ', '-')}-{rank}-{seed}.json"
            error = kept_error(path, lambda at=(kind, rank, seed): measure(*at))
            networks.append({"kind": kind, "rank": rank, "seed": seed, "error": error})
    return {"networks": networks, "device": jax.devices()[0].device_kind}


def transform(config: Config, kind: str, rank: int) -> WeightTransform:
    """What is trained: the head, and what the kind says."""
    if kind == ALL:
        return identity()
    if kind == NONE:
        return transfer.freeze([("body/.*", True), ("head/.*", False)])
    adapter = {
        "classic": transfer.Adapter(rank, alpha=config.alpha),
        "rank_stabilized": transfer.Adapter(rank, alpha=config.alpha, scaling="rank_stabilized"),
        "dora": transfer.dora(rank, alpha=config.alpha),
        "pissa": transfer.Adapter(rank, start=transfer.pissa),
    }[kind]
    rules: tree.Rules[Any] = [(KERNELS, True), ("head/.*", "train"), (".*", None)]
    return transfer.lora(adapter, rules)


def show(results: dict[str, Any]) -> str:
    """Errors in %, a row a kind, a column a rank."""
    networks = results["networks"]
    ranks = sorted({one["rank"] for one in networks if one["rank"]})

    def cell(kind: str, rank: int) -> str | None:
        errors = [
            o["error"] for o in networks if (o["kind"], o["rank"]) in ((kind, rank), (kind, 0))
        ]
        return spread(errors) if errors else None

    kinds = dict.fromkeys(one["kind"] for one in networks)
    rows = tuple((kind, *(cell(kind, rank) for rank in ranks)) for kind in kinds)
    return str(Table(("error %", *(f"rank {rank}" for rank in ranks)), rows))


def _cells(config: Config) -> list[tuple[str, int]]:
    ranks = [int(rank) for rank in config.ranks.split(",")]
    adapted = [(kind, rank) for kind in config.kinds.split(",") for rank in ranks]
    return [(NONE, 0), (ALL, 0), *adapted]


if __name__ == "__main__":
    runner.main(run, Config, name="lora-rank", show=show)
