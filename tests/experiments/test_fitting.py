"""Training that is cut off ends where training that is not does, bit for bit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from same_bits import assert_same_bits

from experiments.fitting import fit
from wlab import checkpoint, pruning, training

STEPS, SAVED = 7, 2


class Cut(Exception):
    """What ends a run."""


def test_what_was_cut_off_goes_on_to_the_same_bits(tmp_path):
    weights = pruning.magnitude(pruning.cubic(1.0, 0.25, end=6), [(".*", True)], every=2)
    tx = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9, nesterov=True))

    def loss(params, state, batch, key):
        noise = jax.random.normal(key, batch.shape)
        away = jnp.sum((batch + 0.1 * noise) @ params["w"], axis=1)
        return jnp.sum(away**2), (jnp.float32(len(batch)), {"seen": state["seen"] + 1}, {})

    def begun():
        state = training.init_state(
            {"w": jax.random.normal(jax.random.key(1), (8, 4))},
            *(weights, tx),
            key=jax.random.key(0),
            model_state={"seen": jnp.int32(0)},
        )
        return training.compile_step(training.make_step(loss, weights, tx), state), state

    def batch_at(step: int, cut: int = STEPS) -> jax.Array:
        if step >= cut:
            raise Cut
        return jax.random.normal(jax.random.fold_in(jax.random.key(2), step), (16, 8))

    whole = fit(*begun(), batch_at, steps=STEPS, directory=None)
    kept: dict[str, Any] = {"steps": STEPS, "directory": tmp_path, "every": SAVED}
    for cut, last in ((1, []), (4, [2, 4]), (6, [4, 6])):
        with pytest.raises(Cut):
            fit(*begun(), partial(batch_at, cut=cut), **kept)
        assert checkpoint.steps(tmp_path) == last
    for _ in range(2):  # the second time there is nothing left to do
        again = fit(*begun(), batch_at, **kept)
        assert int(again.model_state["seen"]) == STEPS
        assert_same_bits(again, whole)
