"""A linear regression small enough to train by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab import training


def params() -> dict[str, jax.Array]:
    return {"kernel": jnp.arange(8, dtype=jnp.float32).reshape(4, 2) / 8, "bias": jnp.zeros(2)}


def rows(count: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(-2, 3, (count, 4)).astype(np.float32),
        "y": rng.integers(-2, 3, (count, 2)).astype(np.float32),
        "weight": np.ones(count, np.float32),
    }


def loss(p: Any, model_state: Any, batch: Any, key: Any) -> Any:
    """The squared error, weighted by row."""
    del key
    error = batch["x"] @ p["kernel"] + p["bias"][None] - batch["y"]
    per_row = jnp.sum(jnp.square(error), axis=1)
    total = jnp.sum(per_row * batch["weight"])
    return total, (jnp.sum(batch["weight"]), model_state, {"sse": total})


def mean_gradient(p: dict[str, Any], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same gradient in numpy, of the weighted mean."""
    error = batch["x"] @ np.asarray(p["kernel"]) + np.asarray(p["bias"]) - batch["y"]
    error = 2 * error * batch["weight"][:, None] / batch["weight"].sum()
    return {"kernel": batch["x"].T @ error, "bias": error.sum(0)}


def begin(weights: Any, tx: Any, **options: Any) -> training.TrainState:
    return training.init_state(params(), weights, tx, key=jax.random.key(0), **options)
