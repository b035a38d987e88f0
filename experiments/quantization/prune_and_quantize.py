"""In which order are half of the weights left out and the others written in 4 bits?

Every kernel of the blocks of stories15M: half of its weights anywhere, or two of each four
neighbouring inputs, stay, in 4 bits in groups of 128 inputs with one float16 scale each, symmetric.
By magnitude and rounding to nearest, which nothing makes up for; by GPTQ, then magnitude; by
SparseGPT, then nearest or GPTQ; and jointly: SparseGPT takes over what is lost by rounding, too,
input by input. GPTQ lets zeros be, and its grids are those of the weights as they were. Both go
block by block, each calibrated behind those already changed. Beside them all weights in 4 and in 3
bits: the latter take about as many bytes as half of them in 4 bits and a bit a weight for which
half. stories15M is calibrated and judged on stories that it told itself in float32 at temperature
1: judged on others than it is calibrated on.

Run     python -m experiments.quantization.prune_and_quantize
Cost    not measured as a whole; a run that is cut off goes on with the next of 41 figures
Paper   Frantar & Alistarh 2023 (arXiv:2301.00774), figure 6, OPT-175B on WikiText-2: 50 % in 4
        bits, jointly, 8.29; GPTQ in 3 bits 8.68; from 2.7 billion weights on it is better so
Expect  SparseGPT, then GPTQ = jointly < SparseGPT, then nearest = GPTQ in 3 bits << GPTQ, then
        magnitude: 4.9, 5.0, 5.5, 5.6, 9.9 at 50 % of 2.7 as it came, by 16 windows and 1,024 tokens
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.kept import kept, spread
from experiments.pruning.texts import KERNELS, Reading, stories
from wlab import calibration, pruning, quantization, tree
from wlab.calibration import RowGrids
from wlab.pruning import NM, Bitmask, Form, Neighbours, Pattern, PerLeaf
from wlab.quantization import Format, integer
from wlab.table import Table
from wlab.transform import Params

PATTERNS: dict[str, Pattern] = {"50 %": PerLeaf(0.5), "2:4": Neighbours(keep=2, of=4)}
FORMS: tuple[Form, ...] = (NM(2, 4), Bitmask())
AS_IT_CAME, DENSE = "as it came", "dense"
WHOLE = ("nearest", "gptq")
HALVED = (
    *("sparsegpt", "magnitude, nearest", "gptq, magnitude"),
    *("sparsegpt, nearest", "sparsegpt, gptq", "jointly"),
)
BLOCK = 128  # inputs whose errors are applied to later ones at once


@dataclass(frozen=True)
class Config:
    """Settings."""

    network: str = field(default="stories15m", metadata={"help": "a network that tells stories"})
    bits: int = field(default=4, metadata={"help": "of a weight that stays"})
    group: int = field(default=128, metadata={"help": "inputs with a common scale"})
    sets: int = field(default=3, metadata={"help": "draws of calibration texts"})
    rows: int = field(default=128, metadata={"help": "windows to calibrate on"})
    test: int = field(default=51_200, metadata={"help": "tokens to judge on"})
    batch: int = field(default=16, metadata={"help": "windows at once"})


class Cell(NamedTuple):
    """A row of the page; 32 bits are weights that were not rounded.

    Attributes:
        method: What is done, step by step, with commas.
        pattern: Of `PATTERNS`, or "dense".
        bits: Of a weight that stays.
        set: Of calibration texts.
    """

    method: str
    pattern: str
    bits: int
    set: int

    def path(self, directory: Path, figure: str) -> Path:
        """Where a figure of it is kept."""
        name = "-".join(map(str, (*self, figure)))
        for old, new in ((" %", ""), (",", ""), (":", "of"), (" ", "-")):
            name = name.replace(old, new)
        return directory / f"{name}.json"


class Task(NamedTuple):
    """What a step is to do with the kernels.

    Attributes:
        fn: Of the parameters and a batch.
        batches: To calibrate on.
        stages: The order in which the function comes to the leaves.
        pattern: Which weights stay; None: no step chooses any.
        format: How they are written; None: no step rounds them.
    """

    fn: Callable[..., Any]
    batches: calibration.Batches
    stages: list[str]
    pattern: Pattern | None
    format: Format | None


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every figure of the page; what is in the directory already is not computed again."""

    @cache
    def reading() -> Reading:
        return stories(config.network, directory, rows=config.rows, test=config.test)

    @lru_cache(maxsize=1)
    def params_of(cell: Cell) -> Params:
        return compressed(reading(), cell, group=config.group, batch=config.batch)

    def perplexity(cell: Cell) -> float:
        read = reading()
        return read.perplexity(params_of(cell))

    def stored(cell: Cell) -> float:
        return stored_bits(params_of(cell), cell.bits, group=config.group)

    return {
        "cells": [
            cell._asdict()
            | {
                name: kept(cell.path(directory, name), partial(of, cell), name=name)
                for name, of in {"perplexity": perplexity, "stored": stored}.items()
            }
            for cell in _cells(config)
        ]
    }


def compressed(reading: Reading, cell: Cell, *, group: int, batch: int) -> Params:
    """The weights after all steps of a method."""
    network = reading.network
    task = Task(
        fn=network.model.apply,
        batches=reading.batches(cell.set, batch=batch),
        stages=reading.stages,
        pattern=PATTERNS.get(cell.pattern),
        format=_format(cell.bits, group) if cell.bits < 32 else None,
    )
    params = network.params
    for step in cell.method.split(", ") if cell.method != AS_IT_CAME else []:
        params = STEPS[step](params, task)
    return params


def stored_bits(params: Params, bits: int, *, group: int) -> float:
    """Bits a weight of the kernels: all of them, or those that are not zero and where they are.

    Of each kernel, whichever takes fewer bytes. Scales are counted; 32 bits have none.
    """
    kernels = _kernels(params)
    total = sum(_stored_bytes(np.asarray(leaf), bits, group=group) for leaf in kernels.values())
    return 8 * total / sum(leaf.size for leaf in kernels.values())


def _stored_bytes(kernel: np.ndarray, bits: int, *, group: int) -> int:
    scales, nonzero = 0, (kernel != 0).astype(np.int8)
    dense = kernel.shape[0] * quantization.packed_length(kernel.shape[1], bits)
    if bits < 32:
        scales = quantization.planned_bytes(_format(bits, group), kernel.shape) - dense
    sizes = [dense]
    for form in FORMS:
        if pruning.packed_bytes(nonzero, form) is not None:
            sparse = pruning.compress(nonzero, form)
            values = quantization.packed_length(sparse.values.size, bits)
            sizes.append(sparse.positions.nbytes + values)
    return scales + min(sizes)


def _nearest(params: Params, task: Task) -> Params:
    rules: tree.Rules[Format | None] = [(KERNELS, task.format), (".*", None)]
    return quantization.dequantize_tree(quantization.quantize_tree(params, rules))


def _magnitude(params: Params, task: Task) -> Params:
    """Kernels are inputs by outputs in these networks, as patterns have it."""
    new = {
        path: jnp.where(pruning.chosen(_pattern(task), jnp.abs(leaf)), leaf, 0)
        for path, leaf in _kernels(params).items()
    }
    return tree.replace(params, new)


def _sparsegpt(params: Params, task: Task) -> Params:
    rules: tree.Rules[Pattern | None] = [(KERNELS, _pattern(task)), (".*", None)]
    given = (task.fn, params, task.batches, rules)
    return pruning.sparsegpt(*given, block=BLOCK, stages=task.stages).params


def _gptq(params: Params, task: Task) -> Params:
    rules: tree.Rules[Format | None] = [(KERNELS, _format_of(task)), (".*", None)]
    given = (task.fn, params, task.batches, rules)
    return quantization.gptq(*given, groups="static", block=BLOCK, stages=task.stages).params


def _jointly(params: Params, task: Task) -> Params:
    rules: tree.Rules[Pattern | None] = [(KERNELS, _pattern(task)), (".*", None)]
    given = (task.fn, params, task.batches, rules)
    grids: tree.Rules[RowGrids | None] = [(KERNELS, _grids(_format_of(task))), (".*", None)]
    options = {"grids": grids, "block": BLOCK, "stages": task.stages}
    return pruning.sparsegpt(*given, **options).params


@cache
def _grids(format: Format) -> RowGrids:
    """One value for a format, so that it is compiled once."""
    return quantization.row_grids(format)


STEPS: dict[str, Callable[[Params, Task], Params]] = {
    "nearest": _nearest,
    "magnitude": _magnitude,
    "sparsegpt": _sparsegpt,
    "gptq": _gptq,
    "jointly": _jointly,
}


def show(results: dict[str, Any]) -> str:
    """A row a method, with its bits a weight and its perplexity."""
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for one in results["cells"]:
        found.setdefault((one["pattern"], one["method"], one["bits"]), []).append(one)
    rows = []
    for (pattern, method, bits), cells in found.items():
        stored = float(np.mean([cell["stored"] for cell in cells]))
        figures = [cell["perplexity"] for cell in cells]
        rows.append((pattern, method, bits, round(stored, 3), spread(figures)))
    columns = ("", "", "bits of a value", "stored bits a weight", "perplexity")
    return str(Table(columns, tuple(rows)))


def _cells(config: Config) -> list[Cell]:
    found = [Cell(AS_IT_CAME, DENSE, 32, 0)]
    wanted = [(m, DENSE, bits) for bits in (config.bits, config.bits - 1) for m in WHOLE]
    for pattern in PATTERNS:
        wanted += [(m, pattern, 32 if m == "sparsegpt" else config.bits) for m in HALVED]
    for method, pattern, bits in wanted:
        calibrated = any(step in method for step in ("gpt", "jointly"))
        found += [Cell(method, pattern, bits, i) for i in range(config.sets if calibrated else 1)]
    return found


def _format(bits: int, group: int) -> Format:
    return integer(bits, group_size=group, scale_dtype="float16")


def _pattern(task: Task) -> Pattern:
    if task.pattern is None:
        raise ValueError("a step that prunes needs one of the patterns.")
    return task.pattern


def _format_of(task: Task) -> Format:
    if task.format is None:
        raise ValueError("a step that rounds needs a format.")
    return task.format


def _kernels(params: Params) -> dict[str, Any]:
    rules: tree.Rules[bool] = [(KERNELS, True), (".*", False)]
    named = tree.leaves(params)
    return {path: named[path] for path in tree.selected(rules, params)}


if __name__ == "__main__":
    runner.main(run, Config, name="prune-and-quantize", show=show)
