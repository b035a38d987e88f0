"""How small does LeNet-300-100 get before it errs more?

A network's weights go through their whole life: He initialization, training with decoupled
decay, pruning by a schedule inside the same compiled step, quantization to 4 bits, a packed
file. A dense twin is trained for the same number of steps.

Run     python -m experiments.compression.deep_compression
Cost    3.5 minutes on 2 CPU cores, without the download
Paper   Han et al. 2015 (arXiv:1506.02626), table 3: error 1.64 -> 1.59 %, 267K -> 22K weights;
        Han et al. 2016 (arXiv:1510.00149), table 1: 1070 -> 27 KB at 1.58 %
Expect  dense 1.44 %, pruned 1.43 % at 21,938 weights, quantized 1.46 % in 25,848 bytes
"""

import hashlib
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runner
from experiments.compression.lenet import held_out, train_stages
from experiments.compression.measure import errors
from experiments.compression.packed import write_packed
from wlab import chain, data, pruning, quantization, tree
from wlab.transform import WeightTransform

PAPER_ERROR = {"dense": 1.64, "pruned": 1.59, "quantized": 1.58}
PAPER_WEIGHTS = {"dense": 267_000, "pruned": 22_000, "quantized": 22_000}
PAPER_BYTES = {"dense": 1_070_000, "pruned": None, "quantized": 27_000}
FORMAT = quantization.int4(scale_dtype="float16")
KERNELS: tree.Rules[bool] = [(".*/kernel", True), (".*", False)]


@dataclass(frozen=True)
class Config:
    """Settings. The defaults were chosen on the 5,000 validation images."""

    dataset: str = field(default="mnist", metadata={"help": "mnist or digits"})
    seeds: int = field(default=5, metadata={"help": "networks trained as one program"})
    steps: int = field(default=20_000, metadata={"help": "steps of the dense and pruned networks"})
    tune: int = field(default=3_000, metadata={"help": "further steps with quantized weights"})
    batch: int = field(default=60, metadata={"help": "examples a step"})
    lr: float = field(default=6e-3, metadata={"help": "peak learning rate of AdamW"})
    decay: float = field(default=0.1, metadata={"help": "decoupled decay of the kernels"})
    fc1: float = field(default=0.0775, metadata={"help": "density of the first layer"})
    fc2: float = field(default=0.1, metadata={"help": "density of the second layer"})
    fc3: float = field(default=0.3, metadata={"help": "density of the last layer"})
    chunk: int = field(default=1_000, metadata={"help": "steps between checkpoints"})


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Trains, prunes, quantizes, packs and measures; resumes from its checkpoints."""
    clock = [time.perf_counter()]
    dataset = data.load_or_digits(config.dataset)
    clock.append(time.perf_counter())
    seen = train_stages(config, _chains(config), dataset, directory)
    files = [directory / f"seed_{seed}.wlab" for seed in range(config.seeds)]
    for path, params in zip(files, seen["quantized"], strict=True):
        write_packed(path, params, dict.fromkeys(tree.selected(KERNELS, params), FORMAT))
    measured = [_measure_file(path, dataset.name) for path in files]
    clock.append(time.perf_counter())
    shapes = tree.leaves(seen["dense"][0])
    return {
        "dataset": dataset.name,
        "seeds": list(range(config.seeds)),
        "dense_error": errors(seen["dense"], dataset.test, dataset),
        "pruned_error": errors(seen["pruned"], dataset.test, dataset),
        "quantized_error": [found["error"] for found in measured],
        "validation_error": {
            stage: errors(networks, held_out(dataset), dataset) for stage, networks in seen.items()
        },
        "weights": tree.count(seen["dense"][0]),
        "weights_kept": max(sum(tree.nonzero(params).values()) for params in seen["pruned"]),
        "kept_by_leaf": tree.nonzero(seen["pruned"][0]),
        "size_by_leaf": {path: leaf.size for path, leaf in shapes.items()},
        "dense_bytes": tree.nbytes(seen["dense"][0]),
        "file_bytes": max(path.stat().st_size for path in files),
        "digest": _digest(seen),
        "seconds": {"fetch": clock[1] - clock[0], "run": clock[2] - clock[1]},
    }


def show(results: dict[str, Any]) -> str:
    """The paper and what was measured, side by side."""
    on_mnist = results["dataset"] == "mnist"
    kept, size = results["weights_kept"], results["weights"]
    bytes_of = {"dense": results["dense_bytes"], "quantized": results["file_bytes"]}
    rows = tuple(
        (
            stage,
            _mean_sd(results[f"{stage}_error"]),
            f"{PAPER_ERROR[stage]:.2f}" if on_mnist else None,
            size if stage == "dense" else kept,
            PAPER_WEIGHTS[stage] if on_mnist else None,
            bytes_of.get(stage),
            PAPER_BYTES[stage] if on_mnist else None,
        )
        for stage in PAPER_ERROR
    )
    columns = ("stage", "error %", "paper", "weights", "paper", "bytes", "paper")
    layers = tuple(
        (path, results["size_by_leaf"][path], count, 100 * count / results["size_by_leaf"][path])
        for path, count in results["kept_by_leaf"].items()
    )
    seconds = results["seconds"]
    lines = [
        f"LeNet-300-100 on {results['dataset']}, {len(results['seeds'])} seeds, mean ± sd",
        str(tree.Table(columns, rows)),
        "",
        str(tree.Table(("leaf", "weights", "kept", "kept %"), layers)),
        "",
        f"training and measuring {seconds['run']:.0f} s, data {seconds['fetch']:.0f} s",
    ]
    if not on_mnist:
        lines.append("The data are the embedded 8×8 digits: no column of the paper applies.")
    return "\n".join(lines)


def _chains(config: Config) -> dict[str, WeightTransform]:
    densities = [
        ("fc1/kernel", config.fc1),
        ("fc2/kernel", config.fc2),
        ("fc3/kernel", config.fc3),
        (".*", None),
    ]
    schedule = pruning.cubic(1.0, config.fc1, end=int(0.8 * config.steps))
    prune = pruning.magnitude(schedule, densities, every=100)
    quant = quantization.fake_quant(FORMAT, KERNELS)
    return {
        "dense": chain(),
        "pruned": chain(prune=prune),
        "quantized": chain(prune=prune, quant=quant),
    }


def _measure_file(path: Path, dataset: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.compression.measure", str(path), dataset]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def _digest(seen: dict[str, list[Any]]) -> str:
    """A hash of every bit of every network: equal after any interruption."""
    leaves = [np.asarray(x).tobytes() for x in jax.tree.leaves(seen)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def _mean_sd(errors: list[float]) -> str:
    spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
    return f"{statistics.mean(errors):.2f} ± {spread:.2f}"


if __name__ == "__main__":
    runner.spread_over_cores()
    runner.main(run, Config, name="demo", show=show)
