"""Which layers of the two LeNets can spare most, by the loop of train, prune and retrain?

A network is trained; then, a few times, the smallest weights of every layer go and what is left
is trained on. Beside it stand a dense twin and one with as many weights of each layer by chance,
both with the same steps and rates. Of each layer the table has what Han's have: weights, kept,
inputs that are not zero, and the multiply-adds where neither is.

Run     python -m experiments.pruning.han_tables
Cost    LeNet-5, five seeds: 3 core minutes a kind for 1,000 steps. A run that is cut off goes on
        with the next kind of network
Paper   Han et al. 2015 (arXiv:1506.02626), tables 1, 3 and 4: 1.64 -> 1.59 % with 22K of 267K
        weights, 0.80 -> 0.77 % with 36K of 431K
Expect  as many weights, biases counted, at an error of the dense network's + 0.1 points at most
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.lottery import starts
from experiments.lottery.rounds import Images, Outcome, Training, images, trainer
from wlab import data, decay, graph, models, pruning, tree
from wlab.checkpoint import load_npz, save_npz
from wlab.table import Table
from wlab.transform import Params, WeightTransform, identity


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: str = field(default="mnist", metadata={"help": "mnist or digits"})
    networks: str = field(default="lenet-300-100,lenet-5", metadata={"help": "with commas"})
    seeds: int = field(default=5, metadata={"help": "networks of each kind"})
    steps: int = field(default=8_000, metadata={"help": "of 60 images, before the first pruning"})
    rounds: int = field(default=6, metadata={"help": "of pruning"})
    retrain: int = field(default=3_000, metadata={"help": "steps after each"})
    rate: float = field(default=4e-3, metadata={"help": "of AdamW, at its peak"})
    decay: float = field(default=0.1, metadata={"help": "decoupled, of the kernels"})


class Layer(NamedTuple):
    """A layer as the paper has it, and what is kept of it here."""

    path: str
    density: float
    paper_kept: int
    paper_spent: int


class Network(NamedTuple):
    """A network of the paper: its error before and after, in %, and how much was left."""

    model: Callable[[int, int], models.Model]
    layers: tuple[Layer, ...]
    paper: tuple[float, float, int]


NETWORKS = {
    "lenet-300-100": Network(
        lambda pixels, classes: models.lenet_300_100(pixels, classes),
        (
            Layer("fc1/kernel", 0.0775, 8, 8),
            Layer("fc2/kernel", 0.1, 9, 4),
            Layer("fc3/kernel", 0.3, 26, 17),
        ),
        (1.64, 1.59, 22_000),
    ),
    "lenet-5": Network(
        lambda pixels, classes: models.lenet5(int(pixels**0.5), classes=classes),
        (
            Layer("conv1/kernel", 0.66, 66, 66),
            Layer("conv2/kernel", 0.12, 12, 10),
            Layer("fc1/kernel", 0.0775, 8, 6),
            Layer("fc2/kernel", 0.19, 19, 10),
        ),
        (0.80, 0.77, 36_000),
    ),
}


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Errors and layers of each network; kinds in the directory are not computed again."""
    dataset = data.load_or_digits(config.dataset)
    shown = images(dataset)
    found = {}
    for name in config.networks.split(","):
        if name not in NETWORKS:
            raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}.")
        found[name] = _measured(name, config, dataset, shown, directory)
    return found


def show(results: dict[str, Any]) -> str:
    """Two tables a network."""
    return "\n\n".join(_show(name, results[name]) for name in NETWORKS if name in results)


def _show(name: str, found: dict[str, Any]) -> str:
    network = NETWORKS[name]
    before, after, kept = network.paper
    left = round(found["weights"] * found["kept"] / 100)
    paper = {
        "dense": (found["weights"], before),
        "pruned": (left, after),
        "by chance": (left, None),
    }
    errors = tuple(
        (kind, _spread(found["errors"][kind]), theirs, count)
        for kind, (count, theirs) in paper.items()
    )
    layers = tuple(
        (layer.path, *row, layer.paper_kept, layer.paper_spent)
        for layer, row in zip(network.layers, found["layers"], strict=True)
    )
    columns = ("layer", "weights", "kept %", "inputs not 0 %", "spent %", "paper kept %", "spent %")
    return (
        f"{name}, {kept:,} weights in the paper\n"
        f"{Table(('network', '% wrong', 'paper', 'weights'), errors)}\n\n{Table(columns, layers)}"
    )


def _measured(
    name: str, config: Config, dataset: data.Dataset, shown: Images, directory: Path
) -> dict[str, Any]:
    network = NETWORKS[name]
    model = network.model(shown.validation[0].shape[1], dataset.classes)
    kept = {}
    for kind, weights in _kinds(network, config).items():
        path = directory / f"{name}-{kind.replace(' ', '-')}.npz"
        if not path.exists():
            outcome = _trained(model, weights, config, shown, dataset.peak)
            first = jax.tree.map(lambda x: np.asarray(x[0]), outcome.final)
            save_npz(path, {"errors": 100 * np.asarray(outcome.final_error), "first": first})
        kept[kind] = load_npz(path)
    params = jax.tree.map(jnp.asarray, kept["pruned"]["first"])
    return {
        "errors": {kind: values["errors"].tolist() for kind, values in kept.items()},
        "weights": tree.count(params),
        "kept": 100 * sum(tree.nonzero(params).values()) / tree.count(params),
        "layers": _layers(network, model, params, shown, dataset.peak),
    }


def _trained(
    model: models.Model, weights: WeightTransform, config: Config, shown: Images, peak: int
) -> Outcome:
    seeds = jnp.arange(config.seeds, dtype=jnp.uint32)
    settings = Training(_steps(config), look=_steps(config) // 20, tx=_optimizer(config))
    train = trainer(model, shown, settings, config.seeds, peak=peak, method=lambda _: weights)
    return train(starts.networks(model.init, seeds), seeds)


def _kinds(network: Network, config: Config) -> dict[str, WeightTransform]:
    shares = [(layer.path, layer.density) for layer in network.layers] + [(".*", None)]
    loop = pruning.iterative(
        min(layer.density for layer in network.layers),
        rounds=config.rounds,
        every=config.retrain,
        begin=config.steps - 1,
    )
    return {
        "dense": identity(),
        "pruned": pruning.magnitude(loop, shares, every=config.retrain, storage="int8"),
        "by chance": pruning.static(1.0, shares, storage="int8"),
    }


def _steps(config: Config) -> int:
    return config.steps + config.rounds * config.retrain


def _optimizer(config: Config) -> optax.GradientTransformation:
    rates = optax.cosine_decay_schedule(config.rate, _steps(config))
    return decay.adamw(rates, [(".*/kernel", config.decay), (".*", None)])


def _layers(
    network: Network, model: models.Model, params: Params, shown: Images, peak: int
) -> list[tuple[int, float, float, float]]:
    """Weights; kept, inputs that are not zero, and products where neither is, in %."""

    def forward(params: Params, rows: jax.Array) -> jax.Array:
        return model.apply(params, rows.astype(jnp.float32) / peak)

    seen = graph.capture(forward, graph.Statistic(lambda x: jnp.mean(x != 0), empty=0.0))
    _, found = jax.jit(seen)(params, shown.test[0][:1000])
    leaves, rows = tree.leaves(params), []
    for layer in network.layers:
        leaf, inputs = leaves[layer.path], float(found[layer.path, 0])
        kept = float(jnp.mean(leaf != 0))
        rows.append((leaf.size, *(round(100 * x, 1) for x in (kept, inputs, kept * inputs))))
    return rows


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


if __name__ == "__main__":
    runner.spread_over_cores()
    runner.main(run, Config, name="han-tables", show=show)
