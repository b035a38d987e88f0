"""How much of a language model may be zeroed at once, without training?

Half of the weights of every kernel in the blocks, anywhere, or four of each eight or two of each
four neighbouring inputs: at random, by magnitude, by Wanda and by SparseGPT, the latter two block
by block, each block calibrated behind those already pruned. All keep equal numbers. SmolLM2 has the
weights of a Q4_1 file, is calibrated on WikiText-2's training part and judged on the first tokens
of its test part; stories15M is calibrated and judged on stories that it told itself, dense, at
temperature 1: judged on others than it is calibrated on.

Run     python -m experiments.pruning.llm_oneshot --networks stories15m
Cost    8 core minutes with --seeds 1 --rows 32 --test 10240; as a whole not measured; a run that is
        cut off goes on with the next network
Paper   Sun et al. 2023 (arXiv:2306.11695), LLaMA-2-7B on WikiText-2: dense 5.12; at 50 %
        magnitude 14.89, SparseGPT 6.51, Wanda 6.42; 2:4 54.59 / 10.17 / 11.02
Expect  dense < SparseGPT <= Wanda << magnitude << random: 3.1, 5.4, 6.6, 11, 17,000 (stories15M)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import runner
from experiments.kept import kept
from experiments.pruning.texts import KERNELS, Reading, stories, wikitext
from wlab import pruning, tree
from wlab.pruning import Neighbours, Pattern, PerLeaf, PerOutput
from wlab.table import Table
from wlab.transform import Params

PATTERNS: dict[str, Pattern] = {
    "50 %": PerLeaf(0.5),
    "4:8": Neighbours(keep=4, of=8),
    "2:4": Neighbours(keep=2, of=4),
}
METHODS = ("random", "magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True)
class Config:
    """Settings."""

    networks: str = field(default="stories15m,smollm2-135m", metadata={"help": "with commas"})
    methods: str = field(default=",".join(METHODS), metadata={"help": "likewise"})
    seeds: int = field(default=5, metadata={"help": "draws of calibration texts and of chance"})
    rows: int = field(default=128, metadata={"help": "windows to calibrate on"})
    test: int = field(default=0, metadata={"help": "tokens to judge on; 0: 51,200 and 5,120"})
    batch: int = field(default=16, metadata={"help": "windows at once"})


class Cell(NamedTuple):
    """A perplexity of the page."""

    network: str
    method: str
    pattern: str
    seed: int

    def path(self, directory: Path) -> Path:
        """Where it is kept."""
        name = "-".join(map(str, self)).replace(" %", "").replace(":", "of")
        return directory / f"{name}.json"


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every perplexity of the page; what is in the directory already is not computed again."""

    @cache
    def reading_of(name: str) -> Reading:
        if name.startswith("stories"):
            return stories(name, directory, rows=config.rows, test=config.test or 51_200)
        return wikitext(name, rows=config.rows, test=config.test or 5_120)

    def measure(cell: Cell) -> float:
        reading = reading_of(cell.network)
        params = pruned(reading, cell.method, cell.pattern, cell.seed, batch=config.batch)
        return reading.perplexity(params)

    return {
        "cells": [
            cell._asdict()
            | {"perplexity": kept(cell.path(directory), partial(measure, cell), name="perplexity")}
            for cell in _cells(config)
        ],
        "device": jax.devices()[0].device_kind,
    }


def pruned(reading: Reading, method: str, pattern: str, seed: int, *, batch: int) -> Params:
    """The weights after one method."""
    network, chosen = reading.network, PATTERNS.get(pattern)
    if chosen is None:
        return network.params
    if method in ("random", "magnitude"):
        scores = _random(seed) if method == "random" else (lambda path, kernel: jnp.abs(kernel))
        return _by_scores(network.params, chosen, scores)
    batches = reading.batches(seed, batch=batch)
    if method == "wanda" and isinstance(chosen, PerLeaf):
        chosen = PerOutput(chosen.density)  # as the paper has it
    rules: tree.Rules[Pattern | None] = [(KERNELS, chosen), (".*", None)]
    given = (network.model.apply, network.params, batches, rules)
    if method == "wanda":
        return pruning.wanda(*given, stages=reading.stages)
    return pruning.sparsegpt(*given, stages=reading.stages).params


def _by_scores(
    params: Params, pattern: Pattern, scores: Callable[[str, jax.Array], jax.Array]
) -> Params:
    """Kernels are inputs by outputs in these networks, and so are their scores."""
    rules: tree.Rules[bool] = [(KERNELS, True), (".*", False)]
    named = tree.leaves(params)
    paths = tree.selected(rules, params)
    mask_of = jax.jit(partial(pruning.chosen, pattern))
    masks = {path: mask_of(scores(path, named[path])) for path in paths}
    return tree.replace(params, {p: jnp.where(m, named[p], 0) for p, m in masks.items()})


def _random(seed: int) -> Callable[[str, jax.Array], jax.Array]:
    key = jax.random.key(seed)
    return lambda path, kernel: jax.random.uniform(tree.path_key(key, path), kernel.shape)


def show(results: dict[str, Any]) -> str:
    """Perplexities, a row a method, a column a pattern."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for one in results["cells"]:
        by_method = found.setdefault(one["network"], {}).setdefault(one["method"], {})
        by_method.setdefault(one["pattern"], []).append(one["perplexity"])
    return "\n\n".join(
        str(
            Table(
                (f"{network}, perplexity", "dense", *PATTERNS),
                tuple(
                    (method, *(_spread(of.get(p)) for p in ("dense", *PATTERNS)))
                    for method, of in methods.items()
                ),
            )
        )
        for network, methods in found.items()
    )


def _spread(figures: list[float] | None) -> str:
    if not figures:
        return ""
    mean = sum(figures) / len(figures)
    return (
        f"{mean:.2f} ({min(figures):.2f} to {max(figures):.2f})"
        if len(figures) > 1
        else f"{mean:.2f}"
    )


def _cells(config: Config) -> list[Cell]:
    found = []
    for network in config.networks.split(","):
        found.append(Cell(network, "dense", "dense", 0))
        for seed in range(config.seeds):
            for method in config.methods.split(","):
                if method != "magnitude" or seed == 0:
                    found += [Cell(network, method, pattern, seed) for pattern in PATTERNS]
    return found


if __name__ == "__main__":
    runner.main(run, Config, name="llm-oneshot", show=show)
