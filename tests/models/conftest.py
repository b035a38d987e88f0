"""Weights for tests: drawn by NumPy, so that nothing is compiled to make them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.models import Model
from wlab.transform import Params


@pytest.fixture
def drawn() -> Callable[[Model], Params]:
    """Every leaf random: biases of zero and scales of one would hide mistakes."""

    def draw(model: Model) -> Params:
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        return jax.tree.map(lambda s: jnp.array(rng.normal(0.1, 0.4, s.shape), s.dtype), shapes)

    return draw
