"""AC/DC: when each phase begins and ends, and what is in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning

RULES = [("kernel", True)]


def live_after_each_step(steps=14, **phases):
    params = {"kernel": jax.random.normal(jax.random.key(0), (10, 10))}
    transform = pruning.alternating(0.2, RULES, **phases)
    stored, state = transform.init(params, jax.random.key(0))
    update, counts = jax.jit(transform.update), []
    for step in range(steps):
        state = update(stored, None, state, jnp.int32(step))
        counts.append(int(pruning.unpack(state.masks["kernel"], (10, 10)).sum()))
    return counts


def test_phases_begin_and_end_at_their_steps_and_the_last_is_sparse():
    # Step t + 1 is trained with what is live after step t.
    counts = live_after_each_step(warmup=2, sparse=3, dense=2, end=11)
    trained = [100, *counts]
    assert trained == [100] * 2 + [20] * 3 + [100] * 2 + [20] * 3 + [100] + [20] * 4


def test_without_a_warmup_the_first_phase_is_sparse_but_for_its_first_step():
    assert live_after_each_step(4, warmup=0, sparse=3, dense=2, end=11) == [20, 20, 100, 100]
    assert live_after_each_step(3, warmup=0, sparse=3, dense=2, end=0) == [20] * 3
    assert live_after_each_step(3, warmup=1, sparse=3, dense=2, end=1) == [20] * 3


def test_a_sparse_phase_keeps_the_largest_and_a_dense_one_starts_the_others_at_zero():
    params = {"kernel": jnp.array([[3.0, -5.0, 0.5, 4.0]])}
    transform = pruning.alternating(0.5, RULES, warmup=1, sparse=1, dense=1, end=9)
    stored, state = transform.init(params, jax.random.key(0))
    state = transform.update(stored, None, state, 0)
    stored = transform.project(stored, state)
    np.testing.assert_array_equal(stored["kernel"], [[0, -5, 0, 4]])
    state = transform.update(stored, None, state, 1)
    gradient = jax.grad(lambda p: jnp.sum(transform.view(p, state, 2)["kernel"]))(stored)
    np.testing.assert_array_equal(gradient["kernel"], np.ones((1, 4)))
    np.testing.assert_array_equal(transform.project(stored, state)["kernel"], [[0, -5, 0, 4]])


def test_phases_that_make_no_sense_are_refused():
    for phases in (
        {"warmup": 5, "sparse": 1, "dense": 1, "end": 4},
        {"warmup": 0, "sparse": 0, "dense": 1, "end": 4},
        {"warmup": 0, "sparse": 1, "dense": 0, "end": 4},
    ):
        with pytest.raises(ValueError, match="alternating needs phases"):
            pruning.alternating(0.5, RULES, **phases)
