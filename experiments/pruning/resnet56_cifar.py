"""How much of a real ResNet-56 can go, as weights and as channels?

The network that others trained to 93.20 % on CIFAR-10. Weights: the smallest of all layers set to
zero at once, and 80 % of them gradually while it trains on. Channels: those with the smallest
norm, all that is coupled to them counted, taken out until half of the multiply-adds are left
(within blocks only) or a quarter (anywhere), and what is left trained as long. Beside each the
same number of weights, or of channels in every layer, by chance.

Run     python -m experiments.pruning.resnet56_cifar
Cost    on 2 CPU cores an hour for each row that is trained, less for smaller networks; a run that
        is cut off goes on within its row
Paper   Zhu & Gupta 2017 (arXiv:1710.01878) for the schedule; Li et al. 2017 (arXiv:1608.08710),
        table 1: ResNet-56 93.04 %, with 27.6 % of the multiply-adds gone 93.06 %
Expect  80 % of the weights: no loss worth naming; half of the multiply-adds: 2 to 3 points
"""

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import resnet56, runner
from experiments.kept import kept
from wlab import data, graph, pruning
from wlab.table import Table
from wlab.transform import identity

KERNELS = [(".*/kernel", True), (".*", None)]
WITHIN = [(r".*/branch/conv_1/kernel:3", True), (".*", None)]  # the channels of a block alone


@dataclass(frozen=True)
class Config:
    """Settings."""

    steps: int = field(default=1500, metadata={"help": "of training after, or while, pruning"})
    batch: int = field(default=128, metadata={"help": "images a step"})
    rate: float = field(default=0.01, metadata={"help": "at the peak"})
    round_to: int = field(default=8, metadata={"help": "channels of a layer: a multiple of this"})
    test: int = field(default=10_000, metadata={"help": "images to judge on"})
    seed: int = field(default=0, metadata={"help": "of order, crops and chance"})


class Row(NamedTuple):
    """What is done to the network.

    Attributes:
        kind: `at once`, `gradual` or `channels`.
        by: What says which go: `size` or `chance`.
        left: Of the weights in kernels, or of the multiply-adds.
    """

    kind: str
    by: str
    left: float

    @property
    def name(self) -> str:
        """As a file's name, and on the command line."""
        return f"{self.kind}-{self.by}-{self.left}".replace(" ", "-")


ROWS = tuple(
    Row(kind, by, left)
    for kind, left in (
        *(("at once", 0.5), ("at once", 0.2), ("channels", 0.5)),
        *(("gradual", 0.2), ("channels", 0.25)),
    )
    for by in ("size", "chance")
)


def run(config: Config, directory: Path) -> dict[str, Any]:
    """The error of every row; what is in the directory already is not computed again."""
    sets = data.cifar10()
    test = data.take(sets.test, slice(0, config.test))
    whole = cache(resnet56.whole)

    def measure(row: Row) -> float:
        return 100 * resnet56.error(_pruned(row, whole(), sets.train, config, directory), test)

    errors = {
        row.name: kept(directory / f"{row.name}.json", partial(measure, row), name="% wrong")
        for row in ROWS
    }
    dense = kept(
        directory / "dense.json", lambda: 100 * resnet56.error(whole(), test), name="% wrong"
    )
    return {"dense": dense, "errors": errors}


def show(results: dict[str, Any]) -> str:
    """A row a way, and the network as it was."""
    rows = [("the network as it was", 100.0, round(100 - results["dense"], 2))]
    for row in ROWS:
        right = round(100 - results["errors"][row.name], 2)
        rows.append((f"{row.kind}, by {row.by}", 100 * row.left, right))
    return str(Table(("ResNet-56 on CIFAR-10", "% left", "% right"), tuple(rows)))


def _pruned(
    row: Row, net: resnet56.Net, train: data.Arrays, config: Config, directory: Path
) -> resnet56.Net:
    params, key = net.leaves["params"], jax.random.key(config.seed)
    tuning = resnet56.Tuning(config.steps, config.batch, config.rate, config.seed)
    trained = partial(resnet56.trained, train=train, tuning=tuning, directory=directory / row.name)
    if row.kind == "channels":
        return trained(_smaller(row, net, config), identity())
    if row.kind == "at once":
        pruned = pruning.prune(params, row.left, KERNELS, allocation=pruning.globally)
        if row.by == "chance":
            masks = pruning.tickets.shuffled(pruning.masks_of(pruned, KERNELS), key)
            pruned = pruning.tickets.rewound(params, masks)
        return net._replace(leaves=net.leaves | {"params": pruned})
    if row.by == "chance":
        return trained(net, pruning.static(row.left, KERNELS, allocation=pruning.uniform))
    density = pruning.cubic(1.0, row.left, end=2 * config.steps // 3)
    gradual = pruning.magnitude(density, KERNELS, every=20, allocation=pruning.globally)
    return trained(net, gradual)


def _smaller(row: Row, net: resnet56.Net, config: Config) -> resnet56.Net:
    """The network with the best channels, or with as many by chance in every layer."""
    images = jnp.zeros((config.batch, 32, 32, 3))
    training_groups = graph.groups(graph.read(net.train, net.leaves, images), loose=["1/.*"])
    groups = graph.groups(graph.read(net.use, net.leaves, images), loose=["1/.*"])
    squares = jax.tree.map(jnp.square, net.leaves["params"])
    state = jax.tree.map(jnp.zeros_like, net.leaves["state"])  # no weight: it does not count
    scores = pruning.unit_scores(groups, {"params": squares, "state": state})

    def cost(keep: graph.Keep) -> int:
        small = graph.shrink(groups, keep)
        return graph.multiply_adds(graph.read(small.fn, small.params(net.leaves), images))

    rules = WITHIN if row.left >= 0.5 else None
    choose = partial(pruning.best_units, groups, scores, rules=rules, round_to=config.round_to)
    keep = pruning.units_within(row.left * cost({}), choose, cost)
    if row.by == "chance":
        rng = np.random.default_rng(config.seed)
        keep = {name: rng.permutation(kept) for name, kept in keep.items()}
    apart = graph.verify(groups, keep, net.leaves, jnp.asarray(_some_images(config)))
    print(f"{row.name}: {cost(keep) / cost({}):.3f} of the multiply-adds, {apart:.1e} from masked")
    small = graph.shrink(groups, keep)
    return resnet56.Net(small.params(net.leaves), graph.shrink(training_groups, keep).fn, small.fn)


def _some_images(config: Config) -> np.ndarray:
    return data.cifar10().test["image"][: config.batch].astype(np.float32) / 255


if __name__ == "__main__":
    runner.main(run, Config, name="resnet56-cifar", show=show)
