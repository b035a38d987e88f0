"""How much better than rounding to nearest can weights be written in 4, 3 or 2 bits?

Every kernel of the blocks of stories15M, in groups of 128 inputs (the last of 288 = 2 · 128 + 32 is
shorter) with one float16 scale each, symmetric, from the largest weight: rounded to the nearest
code; so too, but with the weights of large inputs magnified first (AWQ), and with the largest
weights cut off; by GPTQ; by GPTQ with the largest inputs first; with zero points; with minima that
were moved without any text (HQQ). GPTQ and AWQ go block by block, each calibrated behind those
already rounded. It is calibrated and judged on stories that it
told itself in float32 at temperature 1: judged on others than it is calibrated on.

Run     python -m experiments.quantization.ptq_methods
Cost    8 core minutes for each of 48 figures; a run that is cut off goes on with the next
Paper   Frantar et al. 2022 (arXiv:2210.17323), LLaMA-7B on WikiText-2: 5.68; 4 bits rounded 6.29,
        GPTQ 6.09; 3 bits 25.54 and 8.07, in groups of 128 6.61. Lin et al. 2023 (arXiv:2306.00978),
        Llama-2-7B in groups of 128: 5.47; 4 bits rounded 5.73, AWQ 5.60; 3 bits 6.66 and 6.24
Expect  of what rounding loses GPTQ wins back 40 % at 4 bits and 60 % at 3
"""

from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments import runner
from experiments.kept import kept, spread
from experiments.pruning.texts import KERNELS, Reading, stories
from wlab import quantization, tree
from wlab.quantization import Format, Integers, integer
from wlab.table import Table
from wlab.transform import Params

METHODS = (
    *("nearest", "awq", "awq clipped", "gptq", "gptq act-order"),
    *("nearest asymmetric", "hqq asymmetric", "gptq asymmetric"),
)


@dataclass(frozen=True)
class Config:
    """Settings."""

    network: str = field(default="stories15m", metadata={"help": "a network that tells stories"})
    bits: str = field(default="4,3,2", metadata={"help": "with commas"})
    group: int = field(default=128, metadata={"help": "inputs with a common scale"})
    sets: int = field(default=3, metadata={"help": "draws of calibration texts"})
    rows: int = field(default=128, metadata={"help": "windows to calibrate on"})
    test: int = field(default=51_200, metadata={"help": "tokens to judge on"})
    batch: int = field(default=16, metadata={"help": "windows at once"})


class Cell(NamedTuple):
    """A perplexity of the page; 32 bits are the network as it was."""

    method: str
    bits: int
    set: int

    def path(self, directory: Path) -> Path:
        """Where it is kept."""
        return directory / f"{'-'.join(map(str, self)).replace(' ', '-')}.json"


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every perplexity of the page; what is in the directory already is not computed again."""

    @cache
    def reading() -> Reading:
        return stories(config.network, directory, rows=config.rows, test=config.test)

    def measure(cell: Cell) -> float:
        read = reading()
        params = rounded(read, cell, group=config.group, batch=config.batch)
        return read.perplexity(params)

    return {
        "cells": [
            cell._asdict()
            | {"perplexity": kept(cell.path(directory), partial(measure, cell), name="perplexity")}
            for cell in _cells(config)
        ]
    }


def rounded(reading: Reading, cell: Cell, *, group: int, batch: int) -> Params:
    """The weights after one method."""
    network = reading.network
    if cell.bits == 32:
        return network.params
    format = integer(
        cell.bits,
        symmetric=not cell.method.endswith("asymmetric"),
        group_size=group,
        scale_dtype="float16",
    )
    rules: tree.Rules[Format | None] = [(KERNELS, format), (".*", None)]
    if cell.method.startswith("nearest"):
        return quantization.dequantize_tree(quantization.quantize_tree(network.params, rules))
    if cell.method.startswith("hqq"):
        return _by_hqq(network.params, format)
    batches = reading.batches(cell.set, batch=batch)
    given = (network.model.apply, network.params, batches, rules)
    if cell.method.startswith("awq"):
        clip = cell.method.endswith("clipped")
        return quantization.awq(*given, clip=clip, stages=reading.stages).params
    act_order = "act-order" in cell.method
    return quantization.gptq(*given, act_order=act_order, stages=reading.stages).params


def _by_hqq(params: Params, format: Format) -> Params:
    """A grid with a zero point of its own has a minimum that is stored, and can be moved."""
    moved = replace(format, grid=Integers(format.grid.bits, symmetric=False, zero="minimum"))
    paths, leaves = tree.selected([(KERNELS, True), (".*", False)], params), tree.leaves(params)
    found = {path: quantization.hqq(leaves[path], moved) for path in paths}
    return quantization.dequantize_tree(tree.replace(params, found))


def show(results: dict[str, Any]) -> str:
    """Perplexities, and how much of what rounding loses was won back; a row a method."""
    found: dict[tuple[str, int], list[float]] = {}
    for one in results["cells"]:
        found.setdefault((one["method"], one["bits"]), []).append(one["perplexity"])
    bits = sorted({b for _, b in found if b != 32}, reverse=True)
    (plain,) = found["nearest", 32]
    rows = []
    for method in METHODS:
        nearest = "nearest asymmetric" if method.endswith("asymmetric") else "nearest"
        cells = [found[method, b] for b in bits]
        lost = [found[nearest, b][0] - plain for b in bits]
        won = (_won(plain, cell, gap) for cell, gap in zip(cells, lost, strict=True))
        won = [""] * len(bits) if method.startswith("nearest") else won
        columns = zip(map(spread, cells), won, strict=True)
        rows.append((method, *(part for pair in columns for part in pair)))
    head = (part for b in bits for part in (f"{b} bits", "% won back"))
    return f"float32: {plain:.4f}\n{Table(('perplexity', *head), tuple(rows))}"


def _won(plain: float, cell: list[float], gap: float) -> str:
    return f"{100 * (1 - (sum(cell) / len(cell) - plain) / gap):.0f}" if gap > 0 else ""


def _cells(config: Config) -> list[Cell]:
    found = [Cell("nearest", 32, 0)]
    for bits in map(int, config.bits.split(",")):
        for method in METHODS:
            sets = 1 if method.startswith(("nearest", "hqq")) else config.sets
            found += [Cell(method, bits, one) for one in range(sets)]
    return found


if __name__ == "__main__":
    runner.main(run, Config, name="ptq-methods", show=show)
