"""Does smoothing repair what a few large channels do to inputs in 8 bits?

stories15M has few outliers, so they are planted: in every block, the same few channels behind both
norms are 10, 30 or 100 times as large, and the kernels that read them divide by as much. The
function is unchanged in float32. Then every kernel of the blocks is written in int8, with a scale
for each output, and its inputs too: with a scale for each token as it comes, or with one for the
tensor, measured beforehand. Before and after SmoothQuant of all these inputs, at several alphas: 0
looks only at weights, 1 only at inputs; and of those behind norms only, as its authors do it with
LLaMA. Beside it, with int8 weights and inputs in float32: what is lost by the weights, whose rows
behind outliers are small. stories15M is calibrated and judged on stories that it told itself in
float32 at temperature 1: judged on others than it is calibrated on.

Run     python -m experiments.quantization.smoothquant_outliers
Cost    not measured as a whole; a run that is cut off goes on with the next of 258 figures
Paper   Xiao et al. 2022 (arXiv:2211.10438), Llama-2-7B on WikiText-2, a scale for each token,
        smoothed: 5.474 before, 5.515 in 8 bits
Expect  a scale for each token is free without outliers, not with them, and smoothed it is again,
        best at an alpha between 0 and 1. One for the tensor is not free without them either: a
        channel behind the gate of block 1 reaches 45 times what the median one does, and that is
        not behind a norm. At 100 times, a scale for the tensor: 1,075 before, 2.81, 2.74 and 2.80
        at alphas 0.5, 0.75 and 1, of 2.72 as it came, by 4 windows and 1,024 tokens
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.kept import kept, spread
from experiments.pruning.texts import KERNELS, Reading, stories
from wlab import calibration, pretrained, quantization, tree
from wlab.quantization import Clip, Format, int8
from wlab.table import Table
from wlab.transform import Params

BEHIND_NORMS = r"block_\d+/(attn/[qkv]|gate|up)/kernel"
READERS = {"norm_1": ("attn/q", "attn/k", "attn/v"), "norm_2": ("gate", "up")}
INPUTS = ("float32", "per token", "per tensor")
AS_IT_CAME, BEFORE = "as it came", "before"
NORMS_ONLY = ", norms only"  # behind an alpha


@dataclass(frozen=True)
class Config:
    """Settings."""

    network: str = field(default="stories15m", metadata={"help": "a network that tells stories"})
    factors: str = field(default="1,10,30,100", metadata={"help": "of the outliers, with commas"})
    alphas: str = field(default="0,0.25,0.5,0.75,1", metadata={"help": "likewise"})
    channels: int = field(default=3, metadata={"help": "that are outliers, of 288"})
    seeds: int = field(default=3, metadata={"help": "draws of channels and calibration texts"})
    rows: int = field(default=128, metadata={"help": "windows to calibrate on"})
    test: int = field(default=20_480, metadata={"help": "tokens to judge on"})
    batch: int = field(default=4, metadata={"help": "windows at once"})


class Cell(NamedTuple):
    """A perplexity of the page.

    Attributes:
        inputs: One of `INPUTS`; kernels are in int8.
        factor: How many times as large the outliers are.
        alpha: Of the smoothing, perhaps of "norms only"; or "before" it, or the network "as it
            came" from planting.
        seed: Of the channels and of the calibration texts.
    """

    inputs: str
    factor: int
    alpha: str
    seed: int

    def path(self, directory: Path) -> Path:
        """Where it is kept."""
        name = "-".join(map(str, self)).replace(",", "").replace(" ", "-")
        return directory / f"{name}.json"


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every perplexity of the page; what is in the directory already is not computed again."""

    @cache
    def reading() -> Reading:
        return stories(config.network, directory, rows=config.rows, test=config.test)

    def measure(cell: Cell) -> float:
        read = reading()
        network = in_eight_bits(read, cell, channels=config.channels, batch=config.batch)
        found = pretrained.perplexity(network, read.test, context=read.context, batch=config.batch)
        return found.perplexity

    return {
        "cells": [
            cell._asdict()
            | {"perplexity": kept(cell.path(directory), partial(measure, cell), name="perplexity")}
            for cell in _cells(config)
        ]
    }


def in_eight_bits(reading: Reading, cell: Cell, *, channels: int, batch: int) -> pretrained.Network:
    """The network with outliers, smoothed and in 8 bits as the cell says."""
    network = reading.network
    chosen = np.random.default_rng(cell.seed).permutation(network.config.width)[:channels]
    params = planted(network.params, chosen, factor=cell.factor)
    if cell.alpha == AS_IT_CAME:
        return replace(network, params=params)
    batches = reading.batches(cell.seed, batch=batch)
    if cell.alpha != BEFORE:
        params = smoothed(network, params, batches, alpha=cell.alpha)
    return rounded(network, params, batches, inputs=cell.inputs)


def planted(params: Params, channels: Sequence[int] | np.ndarray, *, factor: float) -> Params:
    """The same function with outliers: what leaves the norms is larger in some channels.

    Args:
        params: Of a decoder as `models.llama` makes them.
        channels: Which.
        factor: How many times as large.
    """
    leaves, new = tree.leaves(params), {}
    blocks = sorted({path.split("/")[0] for path in leaves if re.fullmatch(KERNELS, path)})
    at = jnp.asarray(channels)
    for block in blocks:
        for norm, readers in READERS.items():
            path = f"{block}/{norm}/scale"
            new[path] = leaves[path].at[at].multiply(factor)
            for reader in readers:
                path = f"{block}/{reader}/kernel"
                new[path] = leaves[path].at[at].divide(factor)
    return tree.replace(params, new)


def smoothed(
    network: pretrained.Network, params: Params, batches: calibration.Batches, *, alpha: str
) -> Params:
    """The parameters after SmoothQuant of all kernels, or of those behind norms only.

    Raises:
        ValueError: If the inputs of a kernel could not be smoothed.
    """
    chosen = BEHIND_NORMS if alpha.endswith(NORMS_ONLY) else KERNELS
    found = quantization.smooth(
        *(network.model.apply, params, batches, [(chosen, True), (".*", False)]),
        alpha=float(alpha.removesuffix(NORMS_ONLY)),
    )
    if found.unmoved:
        raise ValueError(f"smoothing left inputs as they were: {found.unmoved}")
    return found.params


def rounded(
    network: pretrained.Network, params: Params, batches: calibration.Batches, *, inputs: str
) -> pretrained.Network:
    """The network with kernels in int8, and inputs as one of `INPUTS` says.

    Raises:
        ValueError: If a kernel's inputs could not be rounded.
    """
    rules: tree.Rules[Format | None] = [(KERNELS, int8()), (".*", None)]
    packed = quantization.quantize_tree(params, rules)
    if inputs == "float32":
        return replace(network, params=quantization.dequantize_tree(packed))
    apply = network.model.apply
    levels = _levels(network, params, batches) if inputs == "per tensor" else None
    made = quantization.executable(
        *(apply, packed, *batches[0]),
        rules=[(KERNELS, "w8a8"), (".*", None)],
        levels=levels,
    )
    if set(made.ways.values()) != {"w8a8"}:
        raise ValueError(f"some kernels read their inputs in float32: {dict(made.ways)}")
    model = network.model._replace(apply=made.apply)
    return replace(network, model=model, params=made.prepare(packed))


def _levels(
    network: pretrained.Network, params: Params, batches: calibration.Batches
) -> dict[str, Any]:
    """The largest input of each kernel, over all calibration texts."""
    found = calibration.collect(
        *(network.model.apply, params, batches, calibration.absmax()),
        where=lambda use: re.fullmatch(KERNELS, use.path) is not None,
    )
    return quantization.levels_of(found, [(KERNELS, Clip(8, signed=True))])


def show(results: dict[str, Any]) -> str:
    """A table a kind of inputs: a row a factor, a column an alpha."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for one in results["cells"]:
        key = (one["inputs"], one["factor"], one["alpha"])
        found.setdefault(key, []).append(one["perplexity"])
    factors = sorted({factor for _, factor, _ in found})
    alphas = list(dict.fromkeys(alpha for _, _, alpha in found if alpha != AS_IT_CAME))
    tables = []
    for inputs in INPUTS:
        rows = tuple(
            (
                f"x {factor}",
                spread(found["float32", factor, AS_IT_CAME]),
                *(spread(found[inputs, factor, alpha]) for alpha in alphas),
            )
            for factor in factors
        )
        heads = (alpha if alpha == BEFORE else f"alpha {alpha}" for alpha in alphas)
        tables.append(str(Table((f"inputs {inputs}", "float32", *heads), rows)))
    return "\n\n".join(tables)


def _cells(config: Config) -> list[Cell]:
    """All figures; those that no draw changes are there once."""
    found = []
    for factor in map(int, config.factors.split(",")):
        seeds = range(1 if factor == 1 else config.seeds)
        found += [Cell("float32", factor, AS_IT_CAME, seed) for seed in seeds]
        for inputs in INPUTS:
            for alpha in (BEFORE, f"0.5{NORMS_ONLY}", *config.alphas.split(",")):
                calibrated = alpha != BEFORE or inputs == "per tensor"
                draws = range(config.seeds) if calibrated else seeds
                found += [Cell(inputs, factor, alpha, seed) for seed in draws]
    return found


if __name__ == "__main__":
    runner.main(run, Config, name="smoothquant-outliers", show=show)
