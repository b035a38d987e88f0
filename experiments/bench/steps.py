"""Whole train steps against a plain optax step and against the same work written by hand.

The ratio to "plain" is the price of the feature, to "by hand" the price of the abstraction.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import wlab
from experiments.bench import by_hand
from experiments.bench.bench import Bench, timed
from experiments.bench.pair import Thunk
from experiments.bench.task import Task, Trainee
from wlab import pruning, quantization, training, tying
from wlab.transform import WeightTransform

DENSITY = 0.1
FORMAT = quantization.int4()
TX = optax.adam(1e-3)
KERNELS = [(".*/kernel", True), (".*", None)]
TIED = [tying.Tie("fc3/kernel", "fc2/kernel"), tying.Tie("fc3/bias", "fc2/bias")]


def network(*, wide_layers: int = 2) -> Task:
    """784-2048-2048-128-10 on batches of 128, or with more layers of 2048."""
    return Task((784, *[2048] * wide_layers, 128, 10), batch=128)


def benches(task: Task, deep: Task) -> list[Bench]:
    """The rows on whole steps.

    Args:
        task: The network.
        deep: One whose second and third layers are equal, so that they can be tied.
    """

    def row(name: str, against: str, bar: float, make: Callable[[], tuple[Thunk, Thunk]]) -> Bench:
        return Bench(name, against, bar, timed(make))

    return [
        row("identity", "plain", 1.03, lambda: (library(task, wlab.identity()), plain(task))),
        row("idle-pruning", "plain", 1.03, lambda: (library(task, magnitude()), plain(task))),
        row(
            "idle-pruning-by-hand",
            "by hand",
            1.03,
            lambda: (library(task, magnitude()), pruned(task)),
        ),
        row("idle-rigl", "plain", 1.03, lambda: (library(task, moving()), plain(task))),
        row("compression", "plain", 1.10, lambda: (library(deep, compression()), plain(deep))),
        row(
            "compression-by-hand",
            "by hand",
            1.03,
            lambda: (library(deep, compression()), compressed(deep)),
        ),
        row("mask-update", "the step without", 2.0, lambda: due_and_idle(task)),
    ]


def magnitude() -> WeightTransform:
    """Prunes every kernel at step 0; idle ever after."""
    return pruning.magnitude(DENSITY, KERNELS)


def moving() -> WeightTransform:
    """RigL on every kernel between two moves."""
    return pruning.rigl(DENSITY, KERNELS, every=10_000, end=100_000)


def compression() -> WeightTransform:
    """The same, with rounded kernels and two equal layers tied."""
    return wlab.chain(
        prune=magnitude(),
        quant=quantization.fake_quant(FORMAT, KERNELS),
        tie=tying.tie(TIED),
    )


def library(task: Trainee, weights: WeightTransform) -> Thunk:
    """A step of `wlab.training`."""
    state = training.init_state(task.params(), weights, TX, key=jax.random.key(1))
    step = training.make_step(task.loss_fn, weights, TX)
    return stepping(training.compile_step(step, state), state, task)


def plain(task: Trainee) -> Thunk:
    """A step of optax alone."""
    params = task.params()
    step = by_hand.plain(task.mean_loss, TX)
    return stepping(jax.jit(step, donate_argnums=0), (params, TX.init(params)), task)


def pruned(task: Task) -> Thunk:
    """The work of `magnitude()` by hand."""
    params = task.params()
    step = by_hand.pruned(task.mean_loss, TX, to_keep(task))
    return stepping(jax.jit(step, donate_argnums=0), first_state(params), task)


def compressed(task: Task) -> Thunk:
    """The work of `compression()` by hand: one array in two places, no tie."""
    params = {layer: leaves for layer, leaves in task.params().items() if layer != "fc3"}
    loss = by_hand.tied_and_rounded(task.mean_loss, FORMAT, missing="fc3", source="fc2")
    step = by_hand.pruned(loss, TX, to_keep(task))
    return stepping(jax.jit(step, donate_argnums=0), first_state(params), task)


def due_and_idle(task: Task) -> tuple[Thunk, Thunk]:
    """One compiled step, held where masks are chosen and held where they are not."""
    weights = magnitude()
    compiled = jax.jit(training.make_step(task.loss_fn, weights, TX), donate_argnums=0)

    def held(at: int) -> Thunk:
        state = training.init_state(task.params(), weights, TX, key=jax.random.key(1))
        return stepping(lambda s, x: compiled(s._replace(step=jnp.int32(at)), x), state, task)

    return held(0), held(1)


def first_state(params: Any) -> by_hand.PrunedState:
    """The hand-written state at step 0."""
    return by_hand.PrunedState(params, TX.init(params), by_hand.full_masks(params), jnp.int32(0))


def to_keep(task: Task) -> dict[str, int]:
    """How many weights of each kernel are kept."""
    return {layer: int(pruning.kept(size, DENSITY)) for layer, size in task.kernels().items()}


def stepping(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, task: Trainee) -> Thunk:
    """A thunk that takes one more step at each call, on the next batch; the state is donated."""
    batches = task.batches()

    def thunk() -> Any:
        nonlocal state
        state, _ = step(state, next(batches))
        return state

    return thunk
