"""Runs a few real steps of one row of the product, and looks at every state on the way."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from frameworks import SIZES, Framework
from placements import Placement

from wlab import WeightTransform, training, tree

ROWS = 32


class Trace(NamedTuple):
    """What was there after each step; index 0 is the start."""

    states: list[training.TrainState]
    seen: list[Any]
    losses: list[float]


def batch() -> dict[str, np.ndarray]:
    """Small integers, whose sums are exact in any order."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(-2, 3, (ROWS, SIZES[0])).astype(np.float32),
        "y": rng.integers(-2, 3, (ROWS, SIZES[-1])).astype(np.float32),
    }


def loss_of(framework: Framework) -> training.LossFn:
    """Half the squared error, summed over the rows."""

    def loss(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        del key
        error = framework.apply(params, batch["x"]) - batch["y"]
        total = jnp.sum(jnp.square(error)) / 2
        return total, (jnp.float32(len(error)), model_state, {"mean": jnp.sum(error)})

    return loss


def run(
    framework: Framework,
    weights: WeightTransform,
    tx: optax.GradientTransformation,
    placement: Placement,
    *,
    steps: int = 4,
    accumulate: int = 1,
    ema: float | None = 0.5,
) -> Trace:
    """Trains and keeps a copy of every state."""
    mesh = placement.make_mesh()
    state = training.init_state(
        _params(framework),
        weights,
        tx,
        key=jax.random.key(1),
        ema=ema is not None,
        mesh=mesh,
        rules=placement.rules(),
    )
    step = training.make_step(loss_of(framework), weights, tx, accumulate=accumulate, ema=ema)
    compiled = training.compile_step(step, state, mode=placement.mode, mesh=mesh)
    states, losses = [_off_the_mesh(state)], []
    for _ in range(steps):
        state, metrics = compiled(state, batch())
        states.append(_off_the_mesh(state))
        losses.append(float(metrics["loss"]))
    view = _view(weights)
    return Trace(states, [view(s.stored, s.weights, s.step) for s in states], losses)


@functools.cache
def _view(weights: WeightTransform) -> Any:
    """Compiled once for all optimizers and placements."""
    return jax.jit(weights.view)


@functools.cache
def _params(framework: Framework) -> Any:
    return framework.init(jax.random.key(7))


def masks_of(weights: WeightTransform, state: training.TrainState) -> dict[str, np.ndarray]:
    """Which entries of each stored leaf the state allows: where `project` keeps a one."""
    if weights.project is None:
        return {}
    ones = jax.tree.map(jnp.ones_like, state.stored)
    kept = arrays(weights.project(ones, state.weights))
    return {path: leaf != 0 for path, leaf in kept.items()}


def copies(state: training.TrainState) -> list[dict[str, np.ndarray]]:
    """Every moment tree in the optimizer's state, shaped as `stored`."""
    found: list[dict[str, np.ndarray]] = []

    def look(copy: Any) -> Any:
        found.append(arrays(copy))
        return copy

    tree.matched(look, state.opt, jax.tree.map(jnp.zeros_like, state.stored))
    return found


def arrays(tree_of_arrays: Any) -> dict[str, np.ndarray]:
    """The leaves by path, as numpy arrays."""
    return {path: np.asarray(leaf) for path, leaf in tree.leaves(tree_of_arrays).items()}


def _off_the_mesh(state: Any) -> Any:
    """Copies on the default device: the step donates its state, and laws know no mesh."""

    def fetch(x: jax.Array) -> jax.Array:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jnp.asarray(np.asarray(jax.random.key_data(x) if is_key else x))

    return jax.tree.map(fetch, state)
