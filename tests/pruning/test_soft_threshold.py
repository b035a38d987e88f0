"""Soft thresholds: the closed form, its gradients, and what decay makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import pruning, tree

RULES = [("w", True), ("b", None)]


def params_of(dtype=jnp.float32):
    return {"w": jax.random.normal(jax.random.key(0), (20, 15), dtype), "b": jnp.ones(3, dtype)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_are_seen_less_the_threshold_and_the_others_are_zero(dtype):
    transform, params = pruning.soft_threshold(RULES, start=-1.0), params_of(dtype)
    stored, state = transform.init(params, jax.random.key(0))
    seen = transform.finalize(stored, state)
    level = np.float32(1 / (1 + np.e)).astype(dtype)
    weights = np.asarray(params["w"])
    wanted = [[np.sign(w) * (abs(w) - level) if abs(w) > level else 0 for w in r] for r in weights]
    np.testing.assert_allclose(
        np.asarray(seen["w"], np.float32),
        np.asarray(wanted, np.float32),
        rtol=1e-6 if dtype == jnp.float32 else 2**-7,
    )
    assert seen["w"].dtype == dtype
    np.testing.assert_array_equal(seen["b"], params["b"])
    assert tree.nonzero(seen)["w"] == np.sum(np.abs(weights) > level)


def test_the_gradients_are_those_of_the_paper():
    """∂L/∂w = 1{|w| > g(s)} ∂L/∂v, ∂L/∂s = −g′(s) · Σ sign(w) 1{|w| > g(s)} ∂L/∂v."""
    stored, state = (t := pruning.soft_threshold(RULES, start=-1.0)).init(params_of(), None)
    slope = np.random.default_rng(0).normal(size=(20, 15)).astype(np.float32)
    grads = jax.grad(lambda s: jnp.vdot(t.view(s, state, 0)["w"], slope))(stored)
    weights, g = np.asarray(stored.params["w"]), 1 / (1 + np.e)
    live = np.abs(weights) > g
    np.testing.assert_array_equal(grads.params["w"], np.where(live, slope, 0))
    wanted = -g * (1 - g) * np.sum((np.sign(weights) * slope)[live], dtype=np.float64)
    assert float(grads.extra["w"]) == pytest.approx(wanted, rel=1e-5)


def test_decay_of_the_threshold_alone_makes_the_leaf_sparser():
    transform, params = pruning.soft_threshold(RULES, start=-4.0), params_of()
    stored, state = transform.init(params, None)
    tx = optax.masked(
        optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)),
        lambda stored: tree.map_leaves(lambda path, _: path.startswith("+/"), stored),
    )
    opt, left = tx.init(stored), []
    for _ in range(4):
        updates, opt = tx.update(jax.tree.map(jnp.zeros_like, stored), opt, stored)
        stored = optax.apply_updates(stored, updates)
        left.append(tree.nonzero(transform.finalize(stored, state))["w"])
    assert float(stored.extra["w"]) == -0.25
    size = np.abs(np.asarray(params["w"]))
    assert left == [int((size > 1 / (1 + np.exp(s))).sum()) for s in (2, 1, 0.5, 0.25)]
    assert left == sorted(left, reverse=True)


def test_nan_and_infinity_are_seen():
    seen = pruning.soft_thresholded(jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.1]), jnp.float32(1))
    np.testing.assert_array_equal(seen, [np.nan, np.inf, -np.inf, 0])


def test_another_threshold_function():
    transform = pruning.soft_threshold(RULES, start=0.0, threshold=jnp.exp)
    stored, state = transform.init(params_of(), None)
    size = np.abs(np.asarray(stored.params["w"]))
    assert tree.nonzero(transform.finalize(stored, state))["w"] == (size > 1).sum()
    assert "+/w" in tree.paths(stored)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([("w", 0.5), ("b", None)], "leaf 'w' is given the density 0.5, but learns its own"),
        ([(".*", None)], "select none of the leaves"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules, said):
    with pytest.raises(ValueError, match=said):
        pruning.soft_threshold(rules, start=-1.0).init(params_of(), None)
