"""How much of what few bits lose does training with rounded weights win back?

The ResNet-56 that others trained on CIFAR-10, every kernel in 3 bits with a scale for each output
channel; and stories15M, every kernel of its blocks in 3 bits in groups of 128 inputs. Rounded after
training: to the nearest code, with the grid ending at the largest weight or where the squared error
is least, and by GPTQ from both ends. Trained on with rounded weights: straight through, and with
learned scales (LSQ). A twin in float32 is trained on equally long, so that nobody takes for the
method what more training does to any network. Photographs are learned from the network as it came,
by its probabilities at temperature 4 (Hinton et al. 2015, arXiv:1503.02531): it knows all labels of
its training images by heart, which have little to teach.
stories15M is calibrated, trained and judged on stories that it told itself in float32 at
temperature 1, each on others.

Run     python -m experiments.quantization.qat_recovery
Cost    40 core minutes for each of ResNet-56's 9 trainings, 90 for each of stories15M's, 50 more
        for the stories; a run that is cut off goes on within its figure
Paper   Esser et al. 2020 (arXiv:1902.08153), table 1: ResNet-18 70.5; 3 bits 70.2, inputs too.
        QAT at 4 bits recovers 34 to 68 % of what rounding a language model loses
Expect  half of what the best rounding loses, in one epoch
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import resnet56, runner
from experiments.fitting import fit
from experiments.kept import kept
from experiments.pruning.texts import KERNELS, Reading, stories
from wlab import data, quantization, training, tree
from wlab.calibration import Batches
from wlab.quantization import Format, integer
from wlab.table import Table
from wlab.transform import Params, WeightTransform, identity

ROUNDED = ("nearest", "least squares", "gptq", "gptq, least squares")
TRAINED = ("straight-through", "learned scales")
CONTROL = "float32, trained on"
_TEXTS = 100  # the first draw of stories to train on; those before it calibrate


@dataclass(frozen=True)
class Config:
    """Settings."""

    networks: str = field(default="resnet56-cifar10,stories15m", metadata={"help": "with commas"})
    bits: int = field(default=3, metadata={"help": "of each weight"})
    seeds: int = field(default=3, metadata={"help": "orders of training, calibration sets"})
    images: int = field(default=1024, metadata={"help": "to calibrate on"})
    rows: int = field(default=128, metadata={"help": "windows to calibrate on, and a draw"})
    draws: int = field(default=32, metadata={"help": "of stories to train on"})
    test: int = field(default=0, metadata={"help": "to judge on; 0: 10,000 images, 51,200 tokens"})
    rates: str = field(default="0.01,0.0001", metadata={"help": "at the peak, of each network"})
    steps: str = field(default="390,512", metadata={"help": "of 128 images, of 16 windows"})
    taught: str = field(
        default="4,0", metadata={"help": "temperatures of the teacher, as it came; 0: by labels"}
    )


class Seen(NamedTuple):
    """What a network is used with."""

    params: Params
    state: Any


class Subject(NamedTuple):
    """A network that is to have few bits.

    Attributes:
        seen: As it came.
        rules: The format of each leaf.
        matrices: Likewise, of the leaf as a matrix of inputs by outputs.
        forward: Of the parameters and a batch.
        calibration: Batches, by a seed.
        stages: The order in which GPTQ comes to the leaves.
        train: Trains on, seen through a transform, for a figure of the page.
        judge: The figure of the page: the lower, the better.
    """

    seen: Seen
    rules: tree.Rules[Format | None]
    matrices: tree.Rules[Format | None]
    forward: Callable[..., Any]
    calibration: Callable[[int], Batches]
    stages: list[str]
    train: Callable[[WeightTransform, "Cell"], Seen]
    judge: Callable[[Seen], float]


class Cell(NamedTuple):
    """A figure of the page."""

    network: str
    method: str
    bits: int
    seed: int

    def folder(self, directory: Path) -> Path:
        """Where its training is kept."""
        return directory / "-".join(map(str, self)).replace(" ", "-").replace(",", "")

    def path(self, directory: Path) -> Path:
        """Where it is kept."""
        return self.folder(directory).with_suffix(".json")


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every figure of the page; what is in the directory already is not computed again."""

    @cache
    def subject_of(name: str) -> Subject:
        return SUBJECTS[name](config, directory)

    def measure(cell: Cell) -> float:
        subject = subject_of(cell.network)
        return subject.judge(in_few_bits(subject, cell))

    return {
        "cells": [
            cell._asdict() | {"figure": kept(cell.path(directory), partial(measure, cell))}
            for cell in _cells(config)
        ]
    }


def in_few_bits(subject: Subject, cell: Cell) -> Seen:
    """What the network is used with after one method."""
    if cell.method == "as it came":
        return subject.seen
    if cell.method == CONTROL:
        return subject.train(identity(), cell)
    any_format = integer(cell.bits)
    if cell.method == "straight-through":
        return subject.train(quantization.fake_quant(any_format, subject.rules), cell)
    if cell.method == "learned scales":
        return subject.train(quantization.lsq(any_format, subject.rules), cell)
    ends = quantization.mse() if cell.method.endswith("least squares") else quantization.absmax
    params = subject.seen.params
    if cell.method.startswith("gptq"):
        batches = subject.calibration(cell.seed)
        params = quantization.gptq(
            *(subject.forward, params, batches, subject.matrices),
            range_fn=ends,
            stages=subject.stages,
        ).params
    else:
        packed = quantization.quantize_tree(params, subject.rules, range_fn=ends)
        params = quantization.dequantize_tree(packed)
    return subject.seen._replace(params=params)


def show(results: dict[str, Any]) -> str:
    """A table a network: what each method gives, and its share of what the best rounding loses."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in results["cells"]:
        found.setdefault(one["network"], {}).setdefault(one["method"], []).append(one["figure"])
    return "\n\n".join(_show(name, methods) for name, methods in found.items())


def _show(name: str, methods: dict[str, list[float]]) -> str:
    plain, control = (float(np.mean(methods[m])) for m in ("as it came", CONTROL))
    best = min(float(np.mean(methods[m])) for m in ROUNDED)
    rows = []
    for method, figures in methods.items():
        mean = float(np.mean(figures))
        shares = ["", ""]
        if method in TRAINED:
            shares = [f"{100 * (best - mean) / (best - of):.0f}" for of in (plain, control)]
        spread = f"{min(figures):.3f} to {max(figures):.3f}" if len(figures) > 1 else ""
        rows.append((method, round(mean, 3), spread, *shares))
    figure = "perplexity" if name.startswith("stories") else "% wrong"
    columns = (name, figure, "", "% won back, of as it came", "of float32, trained on")
    return str(Table(columns, tuple(rows)))


def _cells(config: Config) -> list[Cell]:
    found = []
    for network in config.networks.split(","):
        for method in ("as it came", *ROUNDED, *TRAINED, CONTROL):
            seeds = (
                config.seeds if method.startswith("gptq") or method in (*TRAINED, CONTROL) else 1
            )
            bits = 32 if method in ("as it came", CONTROL) else config.bits
            found += [Cell(network, method, bits, seed) for seed in range(seeds)]
    return found


def _photographs(config: Config, directory: Path) -> Subject:
    net, sets = resnet56.whole(), data.cifar10()
    test = data.take(sets.test, slice(0, config.test or len(sets.test["label"])))
    kernel = integer(config.bits, axis=(0, 1, 2))
    matrix = integer(config.bits)
    steps, rate, temperature = _of(config, 0)

    def forward(params: Params, images: Any) -> Any:
        return net.use(net.leaves | {"params": params}, images)[0]

    def calibration(seed: int) -> Batches:
        size = len(sets.train["label"])
        chosen = np.random.default_rng(seed).permutation(size)[: config.images]
        images = jnp.asarray(sets.train["image"][chosen], jnp.float32) / 255
        return [(images[i : i + 128],) for i in range(0, len(images), 128)]

    def train(weights: WeightTransform, cell: Cell) -> Seen:
        tuning, folder = resnet56.Tuning(steps, 128, rate, cell.seed), cell.folder(directory)
        teacher = net if temperature else None
        leaves = resnet56.trained(
            *(net, weights, sets.train, tuning),
            directory=folder,
            teacher=teacher,
            temperature=temperature,
        ).leaves
        return Seen(leaves["params"], leaves["state"])

    def judge(seen: Seen) -> float:
        leaves = {"params": seen.params, "state": seen.state}
        return 100 * resnet56.error(net._replace(leaves=leaves), test)

    return Subject(
        Seen(net.leaves["params"], net.leaves["state"]),
        [("head/kernel", matrix), (".*/kernel", kernel), (".*", None)],
        [(".*/kernel", matrix), (".*", None)],
        *(forward, calibration, [".*"], train, judge),
    )


def _stories(config: Config, directory: Path) -> Subject:
    read = stories("stories15m", directory, rows=config.rows, test=config.test or 51_200)
    network = read.network
    format = integer(config.bits, group_size=128, scale_dtype="float16")
    rules: tree.Rules[Format | None] = [(KERNELS, format), (".*", None)]

    return Subject(
        Seen(network.params, ()),
        *(rules, rules, network.model.apply, partial(read.batches, batch=16)),
        read.stages,
        partial(_told_on, config, read, directory),
        lambda seen: read.perplexity(seen.params),
    )


def _told_on(
    config: Config, read: Reading, directory: Path, weights: WeightTransform, cell: Cell
) -> Seen:
    """Trained on stories that the network told."""
    steps, rate, temperature = _of(config, 1)
    rows = np.concatenate([read.calibration(_TEXTS + i) for i in range(config.draws)])

    def said(params: Params, tokens: Any) -> jax.Array:
        logits = read.network.model.apply(params, tokens)[:, :-1]
        return logits.reshape(-1, logits.shape[-1])

    def loss(params: Params, state: Any, batch: Any, key: Any) -> Any:
        del key
        tokens = batch["tokens"]
        flat = said(params, tokens)
        if temperature:
            taught = said(read.network.params, tokens)
            told = jnp.sum(training.distillation_loss(flat, taught, temperature=temperature))
        else:
            labels = tokens[:, 1:].reshape(-1)
            told = training.cross_entropy_sums(flat, labels, jnp.ones(len(flat)))["loss"]
        return told, (jnp.float32(len(flat)), state, {})

    rates = training.warmup_cosine(rate, warmup=steps // 20, steps=steps)
    tx = optax.adam(rates, b2=0.95)
    state = training.init_state(read.network.params, weights, tx, key=jax.random.key(cell.seed))
    step = training.compile_step(training.make_step(loss, weights, tx), state)
    read_rows = data.reader({"tokens": rows}, 16, seed=cell.seed)
    state = fit(step, state, read_rows, steps=steps, directory=cell.folder(directory))
    return Seen(training.params_of(state, weights), ())


def _of(config: Config, network: int) -> tuple[int, float, float]:
    """The steps, the rate and the teacher's temperature of the first network or the second."""
    steps, rate, temperature = (
        text.split(",")[network] for text in (config.steps, config.rates, config.taught)
    )
    return int(steps), float(rate), float(temperature)


SUBJECTS: dict[str, Callable[[Config, Path], Subject]] = {
    "resnet56-cifar10": _photographs,
    "stories15m": _stories,
}


if __name__ == "__main__":
    runner.main(run, Config, name="qat-recovery", show=show)
