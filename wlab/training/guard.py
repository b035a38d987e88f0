"""The non-finite guard: one bad batch costs one step, and a broken run stops by name."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from wlab import tree
from wlab.training.state import Health, TrainState
from wlab.transform import Params

_FINITE = -1
_LOSS = 0  # leaves of the gradient count from 1


@dataclass(frozen=True)
class Guard:
    """Drop updates with a NaN or an infinity; stop after too many in a row.

    Attributes:
        max_consecutive: Steps in a row that may be dropped; 0 stops at the first.
    """

    max_consecutive: int = 10

    def __post_init__(self) -> None:
        if self.max_consecutive < 0:
            raise ValueError(f"max_consecutive must be 0 or more, got {self.max_consecutive}.")


class NonFiniteError(FloatingPointError):
    """A loss or gradient was NaN or infinite for longer than the guard allows."""


def guarded(
    old: TrainState, new: TrainState, loss: Array, grads: Params
) -> tuple[TrainState, dict[str, Array]]:
    """Keeps the old weights, moments and model state together if anything is not finite."""
    first = _first_nonfinite(loss, grads)
    ok = first == _FINITE
    keep = old._replace(health=new.health)
    chosen: Any = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, keep)
    bad = jnp.where(ok, 0, 1)
    health = Health(
        skipped=old.health.skipped + bad,
        consecutive=jnp.where(ok, 0, old.health.consecutive + bad),
    )
    return chosen._replace(health=health), {
        "leaf": first,
        "skipped": health.skipped,
        "consecutive": health.consecutive,
    }


def check(report: dict[str, Any], guard: Guard, stored: Params, *, step: int) -> None:
    """Stops a run on the host, given the fetched `metrics["nonfinite"]` of a step.

    Raises:
        NonFiniteError: If more than `guard.max_consecutive` steps in a row were dropped.
    """
    if int(report["consecutive"]) <= guard.max_consecutive:
        return
    index = int(report["leaf"])
    where = "the loss" if index == _LOSS else f"the gradient of {tree.paths(stored)[index - 1]!r}"
    raise NonFiniteError(
        f"Step {step}: {where} is not finite, and {int(report['consecutive'])} steps in a row "
        "were dropped. The weights are those of the last good step. Lower the learning rate, "
        "clip the gradient's norm, or look at this batch."
    )


def _first_nonfinite(loss: Array, grads: Params) -> Int[Array, ""]:
    """0 for the loss, i + 1 for leaf i of the gradient, -1 if all is finite."""
    bad = jnp.stack([~jnp.all(jnp.isfinite(x)) for x in [loss, *jax.tree.leaves(grads)]])
    return jnp.where(jnp.any(bad), jnp.argmax(bad).astype(jnp.int32), _FINITE)
