"""A loop in four lines, and the optimizers' licence to mix dtypes as optax does."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax
import pytest


@pytest.fixture
def run() -> Callable[..., Any]:
    """`run(tx, params, grad, steps)`: the weights after some steps along `grad(params, t)`."""

    def run(tx: Any, params: Any, grad: Callable[..., Any], steps: int) -> Any:
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(steps):
            updates, state = update(grad(params, t), state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run


@pytest.fixture
def mixed_dtypes() -> Iterator[None]:
    """optax 0.2.8 raises a float to an int32 count: Adam needs standard promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield
