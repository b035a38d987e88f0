"""Straight-through pruning: what is seen, what learns, and what comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import pruning

RULES = [("kernel", True)]


def seen_of(transform, stored, state):
    return np.asarray(jax.jit(transform.view)(stored, state, 0)["kernel"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_largest_are_seen_bit_for_bit_and_all_get_the_gradient(dtype):
    stored = {"kernel": jax.random.normal(jax.random.key(0), (40, 30), dtype)}
    transform = pruning.straight_through(0.3, RULES)
    state = transform.update(stored, None, transform.init(stored, None)[1], 0)
    mask = pruning.topk_mask(jnp.abs(stored["kernel"]), 360)
    wanted = np.where(mask, np.asarray(stored["kernel"]), 0)
    assert seen_of(transform, stored, state).tobytes() == wanted.tobytes()
    slope = jax.random.normal(jax.random.key(1), (40, 30), dtype)
    gradient = jax.grad(lambda p: jnp.vdot(transform.view(p, state, 0)["kernel"], slope))(stored)
    np.testing.assert_array_equal(gradient["kernel"], slope)


def test_a_hidden_infinity_is_hidden():
    stored = {"kernel": jnp.array([[jnp.inf, jnp.nan, jnp.nan, 1.0]])}
    transform = pruning.straight_through(0.5, RULES)
    state = transform.update(stored, None, transform.init(stored, None)[1], 0)
    np.testing.assert_array_equal(seen_of(transform, stored, state), [[0, np.nan, np.nan, 0]])


def test_a_hidden_weight_comes_back_as_large_as_it_has_grown():
    stored = {"kernel": jnp.array([[1.0, 0.9, 0.2, 0.1]])}
    transform, tx = pruning.straight_through(0.5, RULES), optax.sgd(0.5)
    opt, state, seen = tx.init(stored), transform.init(stored, None)[1], []
    target = jnp.array([[1.0, 0.0, 1.0, 0.0]])
    for step in range(4):
        grads = jax.grad(
            lambda p, s=state: jnp.sum((transform.view(p, s, 0)["kernel"] - target) ** 2) / 2
        )(stored)
        updates, opt = tx.update(grads, opt, stored)
        stored = optax.apply_updates(stored, updates)
        state = transform.update(stored, None, state, step)
        seen.append(seen_of(transform, stored, state))
    # The third grows by half of what is missing while it is hidden.
    np.testing.assert_allclose(seen[0], [[1.0, 0, 0.6, 0]], rtol=1e-6)
    np.testing.assert_allclose(seen[-1], [[1.0, 0, 0.95, 0]], rtol=1e-6)


def test_choices_go_on_after_the_end_and_the_count_is_final():
    transform = pruning.straight_through(pruning.cubic(1.0, 0.1, begin=2, end=5), RULES, every=4)
    state, counts = transform.init({"kernel": jnp.ones((10, 10))}, None)[1], []
    update = jax.jit(transform.update)
    chosen = []
    for step in range(12):
        stored = {"kernel": jnp.roll(jnp.arange(100.0), 7 * step).reshape(10, 10)}
        state = update(stored, None, state, jnp.int32(step))
        mask = pruning.unpack(state.masks["kernel"], (10, 10))
        counts.append(int(mask.sum()))
        chosen.append(bool((stored["kernel"][mask] >= 100 - counts[-1]).all()))
    assert counts[:2] == [100, 100] and counts[5:] == [10] * 7
    assert [step for step in range(2, 12) if chosen[step] and counts[step] < 100] == [5, 6, 10]
