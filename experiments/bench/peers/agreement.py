"""How far two sides' results are apart, and where: near-ties may be decided either way."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.peers.task import Arrays, Task
from wlab import models, training, tree
from wlab.models.llama import LlamaConfig

NEAR = 1e-4  # relative
ROWS = 4  # windows that decoders are judged on


def moved(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Which entries are apart by more than 1e-4 of their array's root mean square.

    A mask or a code that was decided otherwise is among these; so is a zero on one side only.

    Raises:
        ValueError: If the sides have other arrays.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"the sides have {sorted(ours)} and {sorted(theirs)}.")
    counts, distance, size, zeros = {}, 0.0, 0.0, 0
    for name, array in ours.items():
        other, wide = np.asarray(theirs[name]), np.asarray(array, np.float64)
        apart = np.abs(wide - other)
        counts[name] = int(np.sum(apart > NEAR * np.sqrt(np.mean(wide**2))))
        distance, size = distance + np.sum(apart**2), size + np.sum(wide**2)
        zeros += int(np.sum((array == 0) != (other == 0)))
    worst = max(counts, key=lambda name: counts[name] / ours[name].size)
    return {
        "entries": sum(array.size for array in ours.values()),
        "moved": sum(counts.values()),
        "zero_on_one_side": zeros,
        "where": {name: count for name, count in counts.items() if count},
        "worst": worst,
        "worst_share": counts[worst] / ours[worst].size,
        "distance": float(np.sqrt(distance / size)),
    }


def of_decoders(task: Task, ours: Arrays, theirs: Arrays) -> dict[str, Any]:
    """`moved`, and the losses of both networks on the first windows; they agree to 1e-4."""
    tokens = jnp.asarray(task.data["tokens"][:ROWS])
    model = models.llama(LlamaConfig(**task.settings["config"]))

    @jax.jit
    def loss(params: Any) -> jax.Array:
        logits = model.apply(params, tokens)[:, :-1].reshape(-1, task.settings["config"]["vocab"])
        ones = jnp.ones(logits.shape[0])
        return training.cross_entropy_sums(logits, tokens[:, 1:].reshape(-1), ones)["loss"]

    count = tokens[:, 1:].size
    dense, a, b = (
        float(loss(tree.replace(task.weights, {p: jnp.asarray(x) for p, x in new.items()}))) / count
        for new in ({}, ours, theirs)
    )
    far = abs(a - b) / abs(b)
    losses = {"dense_loss": dense, "our_loss": a, "their_loss": b, "loss_apart": far}
    return moved(ours, theirs) | losses | {"agrees": far <= NEAR}


def of_populations(task: Task, ours: Arrays, theirs: Arrays) -> dict[str, Any]:
    """`moved` of the first member's weights, and the distance of its losses."""
    del task
    a, b = (float(side["loss"]) for side in (ours, theirs))
    weights = ({k: v for k, v in side.items() if k != "loss"} for side in (ours, theirs))
    far = abs(a - b) / abs(b)
    losses = {"our_loss": a, "their_loss": b, "loss_apart": far}
    return moved(*weights) | losses | {"agrees": far <= NEAR}
