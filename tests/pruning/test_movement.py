"""Movement pruning against a loop in NumPy: scores, masks, and who comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import pruning, tree
from wlab.pruning import Neighbours

SHAPE, STEPS, RATE = (6, 8), 12, 0.25
SCHEDULE = pruning.cubic(1.0, 0.25, begin=1, end=8)
RULES = [("w", True), ("b", None)]


def problem():
    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=SHAPE).astype(np.float32), "b": np.ones(3, np.float32)}
    return jax.tree.map(jnp.asarray, start), rng.normal(size=(STEPS, *SHAPE)).astype(np.float32)


def twin(weights: np.ndarray, targets: np.ndarray):
    """SGD on ½‖m ⊙ w − target‖², its scores and masks after every step."""
    scores, mask, found = np.zeros_like(weights), np.ones(SHAPE, bool), []
    for t, target in enumerate(targets):
        slope = np.where(mask, weights, 0) - target
        scores = scores - np.float32(RATE) * (weights * slope)
        weights = weights - np.float32(RATE) * np.where(mask, slope, 0)
        if t >= 1:
            done = 1 - (1 - min((t - 1) / 7, 1)) ** 3
            k = int(np.floor(48 * (1 - 0.75 * done) + 0.5))
            mask = np.zeros(weights.size, bool)
            mask[np.argsort(-scores, axis=None, kind="stable")[:k]] = True
            mask = mask.reshape(SHAPE)
        found.append((weights, scores, mask))
    return found


def train(transform, params, targets):
    (stored, state), tx, traces = transform.init(params, None), optax.sgd(RATE), []

    @jax.jit
    def step(stored, opt, state, t, target):
        traces.append(t)

        def loss(stored):
            return jnp.sum((transform.view(stored, state, t)["w"] - target) ** 2) / 2

        updates, opt = tx.update(jax.grad(loss)(stored), opt, stored)
        stored = optax.apply_updates(stored, updates)
        return stored, opt, transform.update(stored, None, state, t)

    opt, found = tx.init(stored), []
    for t, target in enumerate(targets):
        stored, opt, state = step(stored, opt, state, jnp.int32(t), target)
        found.append((stored, state))
    assert len(traces) == 1
    return found


def test_scores_accumulate_movement_and_choose_the_weights():
    params, targets = problem()
    dead, back = np.zeros(SHAPE, bool), 0
    wanted = twin(np.asarray(params["w"]), targets)
    transform = pruning.movement(SCHEDULE, RULES)
    for (stored, state), (weights, scores, mask) in zip(
        train(transform, params, targets), wanted, strict=True
    ):
        np.testing.assert_allclose(stored.params["w"], weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stored.extra["w"], scores, rtol=1e-5, atol=1e-6)
        found = np.asarray(pruning.unpack(state.masks["w"], SHAPE))
        np.testing.assert_array_equal(found, mask)
        back += int((dead & found).sum())
        dead = ~found
        seen = transform.finalize(stored, state)
        np.testing.assert_array_equal(seen["w"], np.where(found, stored.params["w"], 0))
    assert back > 0  # the scores of hidden weights went on
    assert found.sum() == 12


def test_a_small_weight_that_grows_outlives_a_large_one_that_shrinks():
    params = {"w": jnp.array([[2.0, 0.1, -0.1, -2.0]])}
    targets = np.tile(np.array([[1.0, 1.0, -1.0, -1.0]], np.float32), (3, 1, 1))
    kept = {}
    for factory in (pruning.movement, pruning.magnitude):
        transform = factory(pruning.oneshot(0.5, at=2), [("w", True)])
        _, state = train(transform, params, targets)[-1]
        kept[factory] = pruning.unpack(state.masks["w"], (1, 4))[0].tolist()
    assert kept[pruning.movement] == [False, True, True, False]
    assert kept[pruning.magnitude] == [True, False, False, True]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_score_learns_by_weight_times_slope_also_where_hidden(dtype):
    params = {"w": jax.random.normal(jax.random.key(0), SHAPE, dtype)}
    transform = pruning.movement(0.5, [("w", True)])
    stored, state = transform.init(params, None)
    state = transform.update(stored, None, state, 0)
    mask = np.asarray(pruning.unpack(state.masks["w"], SHAPE))
    slope = jax.random.normal(jax.random.key(1), SHAPE, dtype)
    grads = jax.grad(lambda s: jnp.vdot(transform.view(s, state, 0)["w"], slope))(stored)
    np.testing.assert_array_equal(grads.params["w"], np.where(mask, slope, 0))
    product = np.asarray(params["w"], np.float32) * np.asarray(slope, np.float32)
    np.testing.assert_array_equal(grads.extra["w"], product)
    assert (stored.extra["w"].dtype, mask.sum()) == (jnp.float32, 24)


def test_scores_choose_within_patterns():
    params, targets = problem()
    transform = pruning.movement(SCHEDULE, [("w", Neighbours(1, 3)), ("b", None)])
    stored, state = train(transform, params, targets)[-1]
    mask = np.asarray(pruning.unpack(state.masks["w"], SHAPE)).reshape(2, 3, 8)
    scores = np.asarray(stored.extra["w"]).reshape(2, 3, 8)
    assert (mask.sum(1) == 1).all()
    np.testing.assert_array_equal(mask.argmax(1), scores.argmax(1))


def test_paths_stay_and_bad_settings_are_refused():
    stored, _ = pruning.movement(0.5, RULES).init(problem()[0], None)
    assert set(tree.paths(stored)) == {"w", "b", "+/w"}
    with pytest.raises(ValueError, match="movement: `every` is a number of steps"):
        pruning.movement(0.5, RULES, every=0)
    with pytest.raises(ValueError, match=r"movement: leaf 'w' of shape .*groups of 4 do not"):
        pruning.movement(0.5, [("w", Neighbours(2, 4)), ("b", None)]).init(problem()[0], None)
