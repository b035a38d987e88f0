"""Networks that are tuned in one way: compiled once for every rate, draw of examples and order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from experiments.transfer.task import Task, on_features
from wlab import data, decay, identity, training, transfer
from wlab.transform import Key, Params, WeightTransform

KERNELS = [(".*/(kernel|embedding)", 0.01), (".*", None)]
TOGETHER = 100  # examples measured at once


@dataclass(frozen=True)
class Way:
    """How a network is tuned.

    Attributes:
        name: As the table calls it.
        weights: What is between the stored weights and those that the network sees.
        fresh: Whether the body is initialized anew.
        gradual: Whether lower layers get smaller steps, later, on a slanted triangle.
    """

    name: str
    weights: WeightTransform = field(default_factory=identity)
    fresh: bool = False
    gradual: bool = False


class Tuned(NamedTuple):
    """The weights as the network sees them, and the share of the test examples it gets right."""

    params: Params
    right: float


class Tuner(Protocol):
    """Tunes one network, whose head is zeros unless it is given."""

    def __call__(
        self,
        train: data.Arrays,
        test: data.Arrays,
        *,
        rate: float,
        seed: int,
        head: Params | None = None,
    ) -> Tuned: ...


def tuner(task: Task, way: Way, *, steps: int, batch: int) -> Tuner:
    """Tunes the whole network."""

    def logits(params: Params, statistics: Any, batch: Any, train: bool) -> tuple[jax.Array, Any]:
        # A body that others trained keeps its statistics: few examples make bad ones.
        return task.logits(params, statistics, batch, train=train and way.fresh)

    def start(seed: int) -> tuple[Params, Any]:
        body, statistics = task.fresh(jax.random.key(seed)) if way.fresh else task.body
        return {"body": body}, statistics

    optimizer = _gradual(task, steps) if way.gradual else _at_once(steps)
    return _tuner(task, logits, start, way.weights, optimizer, steps=steps, batch=batch)


def head_tuner(task: Task, *, steps: int, batch: int) -> Tuner:
    """Tunes a head on what the body made of the examples: `features` in place of inputs."""

    def logits(params: Params, statistics: Any, batch: Any, train: bool) -> tuple[jax.Array, Any]:
        del train
        return on_features(params["head"], batch["features"]), statistics

    def start(seed: int) -> tuple[Params, Any]:
        del seed
        return {}, ()

    return _tuner(task, logits, start, identity(), _at_once(steps), steps=steps, batch=batch)


def _at_once(steps: int) -> optax.GradientTransformation:
    """AdamW for a peak rate of 1."""
    rates = training.warmup_cosine(1.0, warmup=steps // 10, steps=steps)
    return decay.adamw(rates, KERNELS, clip=1.0)


def _gradual(task: Task, steps: int) -> optax.GradientTransformation:
    """Likewise, as ULMFiT does it; everything moves from the middle of the run on."""
    rates = transfer.slanted_triangular(1.0, steps=steps)
    tx = optax.chain(decay.adamw(rates, KERNELS, clip=1.0), transfer.discriminative(task.depths))
    deepest = max(depth for _, depth in task.depths)
    return training.gate(
        tx, transfer.unfreeze_at(task.depths, every=max(1, steps // (2 * deepest)))
    )


def _tuner(
    task: Task,
    logits: Callable[[Params, Any, Any, bool], tuple[jax.Array, Any]],
    start: Callable[[int], tuple[Params, Any]],
    weights: WeightTransform,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch: int,
) -> Tuner:
    def loss(params: Params, statistics: Any, batch: Any, key: Any) -> Any:
        del key
        found, statistics = logits(params, statistics, batch, True)
        sums = training.cross_entropy_sums(found, batch["label"], jnp.ones(len(found)))
        return sums["loss"], (jnp.float32(len(found)), statistics, {})

    def metrics(params: Params, statistics: Any, batch: Any) -> Any:
        found, _ = logits(params, statistics, batch, False)
        sums = training.cross_entropy_sums(found, batch["label"], batch["weight"])
        return jnp.sum(batch["weight"]), sums

    def at(rate: Any) -> optax.GradientTransformation:
        """Steps of a peak rate of 1, times one that is kept as data: no rate is compiled in."""
        return optax.chain(optimizer, optax.inject_hyperparams(optax.scale)(step_size=rate))

    @jax.jit
    def create(params: Params, statistics: Any, key: Key, rate: Any) -> training.TrainState:
        return training.create_state(params, weights, at(rate), key=key, model_state=statistics)

    step = jax.jit(training.make_step(loss, weights, at(1.0)), donate_argnums=0)
    evaluate = training.make_evaluate(metrics)

    def tune(
        train: data.Arrays,
        test: data.Arrays,
        *,
        rate: float,
        seed: int,
        head: Params | None = None,
    ) -> Tuned:
        params, statistics = start(seed)
        params = {**params, "head": task.head() if head is None else head}
        state = create(params, statistics, jax.random.key(seed), rate)
        read = data.reader(train, min(batch, len(train["label"])), seed=seed)
        for i in range(steps):
            state, _ = step(state, read(i))
        seen = training.params_of(state, weights)
        found = evaluate(seen, state.model_state, data.padded_batches(test, TOGETHER))
        return Tuned(seen, 1 - found["error"])

    return tune
