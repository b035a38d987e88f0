"""A step of Adam that keeps its moments in 8 bits against a step of Adam."""

from typing import Any

import jax
import optax

from experiments.bench import by_hand, steps
from experiments.bench.bench import Bench, counted, timed
from experiments.bench.pair import Thunk
from experiments.bench.task import Task
from wlab import tree
from wlab.quantization.moments import quantized_moments


def network() -> Task:
    """784-1024-1024-1024-128-10, 3 million weights, on batches of 128."""
    return Task((784, 1024, 1024, 1024, 128, 10), batch=128)


def benches(task: Task) -> list[Bench]:
    """The step, forward and backward passes among it, and the bytes of the state."""
    eight = quantized_moments(steps.TX)

    def pair() -> tuple[Thunk, Thunk]:
        return stepping(task, eight), stepping(task, steps.TX)

    return [
        Bench("adam-8bit", "adam", 1.5, timed(pair)),
        Bench("adam-8bit-bytes", "adam", 0.26, lambda pairs: state_bytes(task, eight)),
    ]


def stepping(task: Task, tx: optax.GradientTransformation) -> Thunk:
    """A step of optax alone."""
    params = task.params()
    step = by_hand.plain(task.mean_loss, tx)
    return steps.stepping(jax.jit(step, donate_argnums=0), (params, tx.init(params)), task)


def state_bytes(task: Task, tx: optax.GradientTransformation) -> dict[str, Any]:
    """Of the optimizer's state, against Adam's."""
    params = jax.eval_shape(task.params)
    found, usual = (tree.nbytes(jax.eval_shape(one.init, params)) for one in (tx, steps.TX))
    return counted(found, usual, bytes=found)
