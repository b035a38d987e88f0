"""The optimizers of the laws: SGD and Adam alone miss every failure that was found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

RATE = 2**-7


def relaxed(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax itself mixes dtypes and ranks; the strict test settings are for our code."""

    def inside(f: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                return f(*args)

        return run

    return optax.GradientTransformation(inside(tx.init), inside(tx.update))


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def others(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.ndim(p) <= 1, params)


_ROWS: dict[str, optax.GradientTransformation] = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "adam": optax.adam(RATE),
    "adam_eps0": optax.adam(RATE, eps=0.0),
    "adamw": optax.adamw(RATE, weight_decay=0.1),
    "adabelief": optax.adabelief(RATE),
    "lion": optax.lion(RATE / 4),
    "rprop": optax.rprop(RATE / 4),
    # Not centered: the variance of a steady gradient is all rounding, which placements differ in.
    "rmsprop": optax.rmsprop(RATE, momentum=0.9),
    "adafactor": optax.adafactor(RATE, momentum=0.9, min_dim_size_to_factor=16),
    "muon": optax.contrib.muon(RATE),
    "centralize": optax.chain(optax.centralize(), optax.adam(RATE)),
    "noisy": optax.noisy_sgd(RATE, eta=0.01, key=0),
    "schedule_free": optax.contrib.schedule_free_adamw(RATE, weight_decay=0.01),
    "masked": optax.chain(
        optax.masked(optax.adamw(RATE), matrices), optax.masked(optax.sgd(RATE), others)
    ),
    "multi_steps": optax.MultiSteps(optax.adam(RATE), every_k_schedule=2).gradient_transformation(),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(RATE),
    "apply_if_finite": optax.apply_if_finite(optax.adam(RATE), 3),
}
OPTIMIZERS = {name: relaxed(tx) for name, tx in _ROWS.items()}
# By how much two runs may differ. RMSProp multiplies the rounding of a gradient of almost zero by
# its rate over √eps, which is 78.
TOLERANCES = dict.fromkeys(OPTIMIZERS, 1e-5) | {"rmsprop": 3e-5}
