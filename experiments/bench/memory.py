"""Bytes that the state of a mask takes, counted: bytes for each weight that may be pruned."""

from typing import Any

import jax

from experiments.bench import steps
from experiments.bench.bench import Bench, counted
from experiments.bench.task import Task
from wlab import pruning, tree
from wlab.pruning.bits import Storage


def benches(task: Task) -> list[Bench]:
    """A row for each way to keep a mask; only bits are promised."""
    return [
        Bench("mask-bytes-bits", "a weight", 0.13, lambda pairs: bytes_a_weight(task, "bits")),
        Bench("mask-bytes-int8", "a weight", None, lambda pairs: bytes_a_weight(task, "int8")),
    ]


def bytes_a_weight(task: Task, storage: Storage) -> dict[str, Any]:
    """The state of `pruning.magnitude` on every kernel of the network."""
    weights = pruning.magnitude(steps.DENSITY, steps.KERNELS, storage=storage)
    _, state = jax.eval_shape(weights.init, jax.eval_shape(task.params), jax.random.key(0))
    return counted(tree.nbytes(state), sum(task.kernels().values()), bytes=tree.nbytes(state))
