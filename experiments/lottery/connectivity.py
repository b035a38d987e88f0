"""Do two networks that see their examples in another order end up in the same valley?

LeNet-300-100 on MNIST, dense and at three sizes of a lottery ticket: two copies of one start are
trained with different orders of the images, and their error is taken along the straight line
between them. How far it rises above the mean of the two ends is the instability of the start.
Beside the ticket stand its weights initialized anew, and as many of each layer by chance. All
pairs train side by side as one program.

Run     python -m experiments.lottery.connectivity
Cost    a minute and a half on one H100, not measured on CPUs; first whatever is missing of
        `experiments.lottery.lenet_mnist`, whose tickets it takes
Paper   Frankle et al. 2020 (arXiv:1912.05671): this network is stable (below 2 points) from the
        start, dense and as a ticket of 3.5 %; 24,000 steps of 60 images, Adam 1.2e-3, 30 points
Expect  barriers below 0.1 points for tickets of every size, 1 to 2 points for the sparsest controls
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import chart, runner
from experiments.lottery import lenet_mnist, starts
from experiments.lottery.rounds import Images, Training, images, sums, trainer
from wlab import data, initializers, merging, models
from wlab.table import Table
from wlab.transform import Params

BRANCHES = ("ticket", "reinit", "random")
OTHER_ORDER = 1_000  # added to a seed


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: str = field(default="mnist", metadata={"help": "mnist or digits"})
    seeds: int = field(default=5, metadata={"help": "pairs, each of another start"})
    levels: str = field(default="0,5,10,15", metadata={"help": "rounds of pruning, with commas"})
    steps: int = field(default=24_000, metadata={"help": "of each copy"})
    points: int = field(default=30, metadata={"help": "on the line, with its ends"})
    rounds: int = field(default=50_000, metadata={"help": "steps of a round of the tickets"})


def run(config: Config, directory: Path) -> dict[str, Any]:
    """The errors on every line, in % of the test images."""
    del directory
    dataset = data.load_or_digits(config.dataset)
    pixels = int(np.prod(dataset.train["image"].shape[1:]))
    model = models.lenet_300_100(pixels, dataset.classes, kernel_init=initializers.glorot_normal())
    shown = images(dataset)
    seeds = jnp.arange(config.seeds, dtype=jnp.uint32)
    rows = [
        (level, name)
        for level in map(int, config.levels.split(","))
        for name in (BRANCHES if level else ("ticket",))
    ]
    masks = _tickets(config, {level for level, _ in rows})
    begun = starts.joined(
        [starts.branch(name, model.init, masks[level], seeds, level) for level, name in rows]
    )
    orders = jnp.tile(seeds, len(rows))
    settings = Training(config.steps, look=min(1_000, config.steps))
    train = trainer(model, shown, settings, 2 * len(orders), peak=dataset.peak)
    final = train(starts.joined([begun, begun]), jnp.append(orders, orders + OTHER_ORDER)).final
    lines = _lines(model, shown, final, config.points, peak=dataset.peak)
    found = zip(rows, np.split(lines, len(rows)), strict=True)
    return {
        "rows": [
            {"left": lenet_mnist.left(masks[level]), "network": name, "errors": errors.tolist()}
            for (level, name), errors in found
        ]
    }


def show(results: dict[str, Any]) -> str:
    """A row a start: means, and the least and largest of the pairs."""
    rows = []
    for row in results["rows"]:
        errors = np.asarray(row["errors"])
        ends, top = errors[:, [0, -1]].mean(1), errors.max(1)
        figures = (ends, top, top - ends)
        rows.append((f"{100 * row['left']:.1f}", row["network"], *map(_spread, figures)))
    columns = ("% left", "network", "% wrong at the ends", "at the top", "barrier, points")
    return str(Table(columns, tuple(rows)))


def panels(results: dict[str, Any]) -> list[chart.Panel]:
    """The barrier by what is left."""
    found: dict[str, list[tuple[float, list[float]]]] = {}
    for row in results["rows"]:
        errors = np.asarray(row["errors"])
        barriers = errors.max(1) - errors[:, [0, -1]].mean(1)
        found.setdefault(row["network"], []).append((100 * row["left"], barriers.tolist()))
    lines = [chart.Line(name, *zip(*points, strict=True)) for name, points in found.items()]
    return [chart.Panel("% of the weights left", "barrier, points", lines)]


def _tickets(config: Config, levels: set[int]) -> dict[int, Any]:
    """Masks by level, from the run of `lenet_mnist` with these seeds."""
    lottery = lenet_mnist.Config(
        dataset=config.dataset, seeds=config.seeds, levels=max(15, *levels), steps=config.rounds
    )
    directory = runner.directory_of(lottery, lenet_mnist.NAME)
    directory.mkdir(parents=True, exist_ok=True)
    lenet_mnist.run(lottery, directory)
    masks = {level: lenet_mnist.masks_at(directory, level) for level in levels if level}
    dense = jax.tree.map(jnp.ones_like, lenet_mnist.masks_at(directory, 1))
    return masks | {0: dense}


def _lines(
    model: models.Model, shown: Images, final: Params, points: int, *, peak: int
) -> np.ndarray:
    """The errors in %, a row a pair."""
    half = len(jax.tree.leaves(final)[0]) // 2
    one, other = (jax.tree.map(lambda x, r=rows: x[r], final) for rows in _halves(half))

    def along(pair: tuple[Params, Params]) -> jax.Array:
        def measure(params: Params) -> jax.Array:
            return 100 * sums(model, params, *shown.test, peak=peak)["error"] / len(shown.test[1])

        return merging.along(measure, *pair, points=points)

    return np.asarray(jax.jit(lambda pairs: jax.lax.map(along, pairs))((one, other)))


def _halves(half: int) -> tuple[slice, slice]:
    return slice(None, half), slice(half, None)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.2f} [{values.min():.2f}, {values.max():.2f}]"


if __name__ == "__main__":
    runner.spread_over_cores()
    runner.main(run, Config, name="lottery-connectivity", show=show, panels=panels)
