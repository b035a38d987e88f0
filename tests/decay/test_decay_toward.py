import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import decay, tree

ANCHOR = np.float32([1.0, -2.0, 0.5])
START = np.float32([3.0, 2.0, 0.0])


def flat(params, t):
    return jax.tree.map(jnp.zeros_like, params)


def test_the_distance_to_a_pretrained_anchor_shrinks_geometrically(run):
    tx = optax.chain(decay.toward([("w", 0.2)], {"w": ANCHOR}), optax.sgd(0.5))
    found = run(tx, {"w": jnp.asarray(START)}, flat, 12)["w"]
    np.testing.assert_allclose(found, ANCHOR + 0.9**12 * (START - ANCHOR), rtol=1e-5)


def test_without_an_anchor_the_weights_at_init_are_it(run):
    # With a constant pull c, w settles at w0 + c / λ.
    tx = optax.chain(decay.toward([("w", 0.5)]), optax.sgd(0.5))
    found = run(tx, {"w": jnp.asarray(START)}, lambda p, t: {"w": -jnp.ones(3)}, 80)["w"]
    np.testing.assert_allclose(found, START + 2.0, rtol=1e-5)


def test_placed_first_it_is_the_gradient_of_the_l2_sp_penalty():
    params = {"w": jnp.asarray(START)}
    penalty = jax.grad(lambda p: 0.3 / 2 * jnp.sum((p["w"] - ANCHOR) ** 2))
    tx = decay.toward([("w", 0.3)], {"w": ANCHOR})
    updates, _ = tx.update(flat(params, 0), tx.init(params), params)
    np.testing.assert_allclose(updates["w"], penalty(params)["w"], rtol=1e-6)


def test_the_anchor_survives_the_donation_of_the_weights():
    params = {"w": jnp.asarray(START)}
    state = decay.toward([("w", 0.1)]).init(params)
    jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(params)
    np.testing.assert_array_equal(state.anchor["w"], START)


def test_a_new_head_needs_no_anchor_and_holds_none():
    params = {"body": jnp.ones(3), "head": jnp.ones((3, 2))}
    rules = [("body", 0.1), ("head", None)]
    tx = decay.toward(rules, {"body": ANCHOR})
    state = tx.init(params)
    assert tree.paths(state.anchor) == ["body"]
    updates, _ = tx.update(params, state, params)
    np.testing.assert_array_equal(updates["head"], params["head"])


def test_an_anchor_without_a_decayed_leaf_is_refused():
    with pytest.raises(ValueError, match="no leaf 'head'; add it, or give the leaf the rate None"):
        decay.toward([(".*", 0.1)], {"body": ANCHOR}).init({"body": ANCHOR, "head": ANCHOR})


def test_an_anchor_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"'w' is float32\[3\] but its anchor is float32\[4\]"):
        decay.toward([("w", 0.1)], {"w": np.ones(4, np.float32)}).init({"w": START})


def test_a_pruned_weight_is_zero_after_projection_and_its_anchor_stops_pulling():
    mask = jnp.bool_([True, False, True])
    tx = optax.chain(decay.toward([("w", 0.5)], {"w": ANCHOR}), optax.sgd(0.5))

    def project(t):
        return {"w": jnp.where(mask, t["w"], 0)}

    params = project({"w": jnp.asarray(START)})
    state = tx.init(params)
    updates, state = tx.update(flat(params, 0), state, params)
    assert updates["w"][1] != 0  # the anchor pulls, the step projects
    params = project(optax.apply_updates(params, updates))
    state = tree.matched(project, state, params)
    assert params["w"][1] == 0
    updates, _ = tx.update(flat(params, 1), state, params)
    assert updates["w"][1] == 0
    assert updates["w"][0] != 0
