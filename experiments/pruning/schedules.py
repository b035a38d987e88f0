"""Is it worth the trouble to move weights, and to begin dense?

LeNet-300-100 on MNIST with 20 to 2 % of its weights, the same number in every layer (Erdős–Rényi)
under every method: always the same places by chance; places that move, by chance (SET) or to
where the gradient is largest (RigL); the smallest weights taken out after the last step,
gradually, or alternately (AC/DC); dense weights trained through a sparse network. All densities
and seeds of a method train side by side as one program.

Run     python -m experiments.pruning.schedules
Cost    about 20 minutes a method on one CPU core, minutes in all on a GPU; a run that is cut off
        goes on with the next method
Paper   Evci et al. 2020 (arXiv:1911.11134), figure 2: ResNet-50 at 20 %, uniform: static 70.6, SET
        72.9, RigL 74.6, gradual 75.6, dense 76.8
Expect  static < SET < RigL < AC/DC <= gradual, and the gap grows as density falls
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import chart, runner
from experiments.lottery import starts
from experiments.lottery.rounds import RULES, Training, images, trainer
from wlab import data, models, pruning
from wlab.checkpoint import load_npz, save_npz
from wlab.table import Table
from wlab.transform import WeightTransform, identity

Method: TypeAlias = Callable[[jax.Array], WeightTransform]  # of a density


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: str = field(default="mnist", metadata={"help": "mnist or digits"})
    densities: str = field(default="0.2,0.1,0.05,0.02", metadata={"help": "with commas"})
    seeds: int = field(default=5, metadata={"help": "networks of each"})
    steps: int = field(default=20_000, metadata={"help": "of 60 images"})
    rate: float = field(default=1.2e-3, metadata={"help": "of Adam, falling to 0 as a cosine"})
    every: int = field(default=100, metadata={"help": "steps between moves"})


def methods(steps: int, every: int) -> dict[str, Method]:
    """By name; masks stay for the last quarter of the steps."""
    still = 3 * steps // 4
    moving = {"every": every, "end": still}
    phases = {"warmup": steps // 10, "sparse": steps // 20, "dense": steps // 20, "end": still}
    layers: Any = {"allocation": pruning.erk, "storage": "int8"}

    def gradual(density: jax.Array) -> WeightTransform:
        falling = pruning.cubic(1.0, density, end=still)
        return pruning.magnitude(falling, RULES, every=every, **layers)

    def at_the_end(density: jax.Array) -> WeightTransform:
        return pruning.magnitude(pruning.oneshot(density, at=steps - 1), RULES, **layers)

    return {
        "static": lambda density: pruning.static(density, RULES, **layers),
        "SET": lambda density: pruning.evolutionary(density, RULES, **moving, **layers),
        "RigL": lambda density: pruning.rigl(density, RULES, **moving, **layers),
        "after the last step": at_the_end,
        "gradual": gradual,
        "AC/DC": lambda density: pruning.alternating(density, RULES, **phases, **layers),
        "straight-through": partial(pruning.straight_through, rules=RULES, every=every, **layers),
    }


def run(config: Config, directory: Path) -> dict[str, Any]:
    """The share of test images named right by each network; methods that are there stay."""
    dataset = data.load_or_digits(config.dataset)
    densities = [float(density) for density in config.densities.split(",")]
    measure = partial(_right, config, dataset)
    found = {"dense": measure(lambda density: identity(), [1.0], directory / "dense.npz")}
    for name, method in methods(config.steps, config.every).items():
        path = directory / f"{name.replace('/', '-').replace(' ', '-')}.npz"
        found[name] = measure(method, densities, path)
        print(name, " ".join(f"{np.mean(row):.2f}" for row in found[name]), flush=True)
    return {"densities": densities, "right": found}


def show(results: dict[str, Any]) -> str:
    """A row a method, a column a density: mean ± standard deviation over the seeds."""
    columns = (
        "% right",
        *(f"{100 * density:g} % of the weights" for density in results["densities"]),
    )
    right = dict(results["right"])
    dense = _cell(right.pop("dense")[0])
    rows = [("dense", *[dense] * len(results["densities"]))]
    rows += [(name, *map(_cell, cells)) for name, cells in right.items()]
    return str(Table(columns, tuple(rows)))


def panels(results: dict[str, Any]) -> list[chart.Panel]:
    """A line a method."""
    percent = [100 * density for density in results["densities"]]
    lines = [
        chart.Line(name, percent, y) for name, y in results["right"].items() if name != "dense"
    ]
    return [chart.Panel("% of the weights", "% right", lines)]


def _right(
    config: Config, dataset: data.Dataset, method: Method, densities: list[float], path: Path
) -> list[list[float]]:
    """In %, a row a density, a column a seed; kept in a file."""
    if not path.exists():
        shown = images(dataset)
        model = models.lenet_300_100(shown.validation[0].shape[1], dataset.classes)
        rates = optax.cosine_decay_schedule(config.rate, config.steps)
        settings = Training(config.steps, look=config.steps // 20, tx=optax.adam(rates))
        seeds = jnp.tile(jnp.arange(config.seeds, dtype=jnp.uint32), len(densities))
        train = trainer(model, shown, settings, len(seeds), peak=dataset.peak, method=method)
        each = jnp.repeat(jnp.asarray(densities, jnp.float32), config.seeds)
        outcome = train(starts.networks(model.init, seeds), seeds, each)
        save_npz(path, {"error": np.asarray(outcome.final_error)})
    errors = np.asarray(load_npz(path)["error"]).reshape(len(densities), -1)
    return (100 * (1 - errors)).tolist()


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


if __name__ == "__main__":
    runner.spread_over_cores()
    runner.main(run, Config, name="schedules", show=show, panels=panels)
