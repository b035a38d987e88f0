"""Do the weights that survive pruning learn faster and better from where they started?

LeNet-300-100 on MNIST: train, take away a fifth of the smallest weights that are left (of the
output layer a tenth), put the others back to where they were, fifteen times. At each level the
ticket stands beside the same weights initialized anew, and beside as many weights of each layer
chosen by chance. All networks of a level train side by side as one program.

Run     python -m experiments.lottery.lenet_mnist
Cost    5 minutes on one H100; 7 a level on two CPU cores with --branches ticket,reinit; a run that
        is cut off goes on with the next level
Paper   Frankle & Carbin 2019 (arXiv:1803.03635), figure 3 and 4: 5 trials, Adam 1.2e-3, batches of
        60, 50,000 steps, validation every 100; tickets of 21 % stop at 51 % of the dense network's
        steps and are 0.3 points better, initialized anew they get slower and worse from the first
        level on
Expect  from 21 % downwards the ticket is above the same weights initialized anew, in every trial;
        0.44 points at 21 %, where it stops 2.2 times sooner
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import chart, runner
from experiments.lottery import starts
from experiments.lottery.rounds import RULES, Outcome, Training, images, trainer
from wlab import data, initializers, models, tree
from wlab.checkpoint import load_npz, save_npz
from wlab.pruning import tickets
from wlab.table import Table
from wlab.transform import Params

NAME = "lottery-lenet"
HIDDEN, OUTPUT = 0.8, 0.9  # what a round leaves


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: str = field(default="mnist", metadata={"help": "mnist or digits"})
    branches: str = field(default="ticket,reinit,random", metadata={"help": "with commas"})
    seeds: int = field(default=5, metadata={"help": "trials"})
    levels: int = field(default=15, metadata={"help": "rounds of pruning"})
    steps: int = field(default=50_000, metadata={"help": "of a round"})
    look: int = field(default=100, metadata={"help": "steps between looks at validation images"})


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every level; those in the directory already are not computed again."""
    dataset = data.load_or_digits(config.dataset)
    pixels = int(np.prod(dataset.train["image"].shape[1:]))
    model = models.lenet_300_100(pixels, dataset.classes, kernel_init=initializers.glorot_normal())
    shown, rounds = images(dataset), Training(config.steps, look=config.look)
    train = cache(lambda members: trainer(model, shown, rounds, members, peak=dataset.peak))
    seeds = jnp.arange(config.seeds, dtype=jnp.uint32)
    levels, masks = [], _all_kept(model.init, seeds)
    for level in range(config.levels + 1):
        branches, path = _branches(config, level), _file(directory, level)
        if not path.exists():
            begun = [starts.branch(name, model.init, masks, seeds, level) for name in branches]
            members = jnp.tile(seeds, len(branches))
            outcome = train(len(members))(starts.joined(begun), members)
            _save(path, outcome, _next(config.seeds, outcome.final, masks, level + 1))
        found = load_npz(path)["outcome"]
        levels.append({"left": left(masks), "branches": _by_branch(found, branches)})
        masks = masks_at(directory, level + 1)
        print(_line(level, levels[-1]), flush=True)
    return {"levels": levels}


def masks_at(directory: Path, level: int) -> dict[str, jax.Array]:
    """The tickets of a level above 0 of a run, by path; a row a seed."""
    kept = load_npz(_file(directory, level - 1))["masks"]
    return {name: jnp.asarray(mask) for name, mask in tree.leaves(kept).items()}


def left(masks: Mapping[str, jax.Array]) -> float:
    """The share of the prunable weights, of the first trial: all have as many."""
    first = [np.asarray(mask[0]) for mask in masks.values()]
    return float(sum(mask.sum() for mask in first) / sum(mask.size for mask in first))


def show(results: dict[str, Any]) -> str:
    """A row a level and branch: means, and the least and largest of the trials."""
    rows = [
        (f"{100 * level['left']:.1f}", name, *(_spread(found[what]) for what in _COLUMNS))
        for level in results["levels"]
        for name, found in level["branches"].items()
    ]
    columns = ("% left", "network", "stops at step", "% right there", "% right at the end")
    return str(Table(columns, tuple(rows)))


def panels(results: dict[str, Any]) -> list[chart.Panel]:
    """The paper's figures: what is right, and where training would stop, by what is left."""

    def lines(what: str) -> list[chart.Line]:
        found: dict[str, list[tuple[float, list[float]]]] = {}
        for level in results["levels"]:
            for name, of in level["branches"].items():
                found.setdefault(name, []).append((100 * level["left"], of[what]))
        return [chart.Line(name, *zip(*points, strict=True)) for name, points in found.items()]

    axes = {"early_right": "% right, early stop", "early_step": "step of the early stop"}
    axes["final_right"] = "% right, last step"
    return [chart.Panel("% of the weights left", name, lines(what)) for what, name in axes.items()]


_COLUMNS = ("early_step", "early_right", "final_right")


def _branches(config: Config, level: int) -> list[str]:
    return config.branches.split(",") if level else ["ticket"]


def _file(directory: Path, level: int) -> Path:
    return directory / f"level-{level:02}.npz"


def _all_kept(init: starts.Init, seeds: jax.Array) -> dict[str, jax.Array]:
    shapes = jax.eval_shape(lambda: starts.networks(init, seeds))
    return jax.vmap(lambda params: tickets.all_kept(params, RULES))(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    )


@partial(jax.jit, static_argnums=0)
def _next(seeds: int, trained: Params, masks: Any, level: jax.Array | int) -> Any:
    """The masks of a level, from the tickets before, which are the first of the population."""
    hidden, output = (jnp.float32(kept) ** level for kept in (HIDDEN, OUTPUT))
    rules = [("fc[12]/kernel", True), ("fc3/kernel", output), (".*", None)]
    first = jax.tree.map(lambda x: x[:seeds], trained)
    return jax.vmap(lambda p, m: tickets.next_masks(p, m, hidden, rules))(first, masks)


def _save(path: Path, outcome: Outcome, masks: Any) -> None:
    numbers = {
        "early_step": np.asarray(outcome.early_step),
        "early_right": 100 * (1 - np.asarray(outcome.early_error)),
        "final_right": 100 * (1 - np.asarray(outcome.final_error)),
    }
    save_npz(path, {"outcome": numbers, "masks": jax.tree.map(np.asarray, masks)})


def _by_branch(outcome: Any, branches: list[str]) -> dict[str, dict[str, list[float]]]:
    cut = {what: np.split(np.asarray(outcome[what]), len(branches)) for what in _COLUMNS}
    return {
        name: {what: cut[what][i].tolist() for what in _COLUMNS} for i, name in enumerate(branches)
    }


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):,.2f} [{min(values):,.2f}, {max(values):,.2f}]"


def _line(level: int, found: dict[str, Any]) -> str:
    means = (
        f"{name} {np.mean(of['early_right']):.2f} at {np.mean(of['early_step']):,.0f}"
        for name, of in found["branches"].items()
    )
    return f"level {level:2}  {100 * found['left']:5.1f} % left  {'  '.join(means)}"


if __name__ == "__main__":
    runner.spread_over_cores()
    runner.main(run, Config, name=NAME, show=show, panels=panels)
