"""Schedules, evaluation, the gate and populations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

import wlab
from wlab import data, training


def test_warmup_cosine_reaches_its_corners():
    rate = training.warmup_cosine(2.0, warmup=10, steps=110, end_fraction=0.1)
    values = [float(rate(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 1, 2, 1.1, 0.2], rtol=1e-6)


def test_wsd_rises_stays_and_falls():
    rate = training.wsd(1.0, warmup=10, decay=20, steps=100)
    values = [float(rate(step)) for step in (0, 5, 10, 79, 80, 90, 100)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-6)


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="shorten"):
        training.wsd(1.0, warmup=60, decay=60, steps=100)


def test_evaluation_over_a_padded_last_batch_is_the_mean_over_the_rows():
    rows = toy.rows(23)
    arrays = {"x": rows["x"], "y": rows["y"]}

    def metrics(params, model_state, batch):
        _, (weight, _, sums) = toy.loss(params, model_state, batch, None)
        return weight, sums

    evaluate = training.make_evaluate(metrics)
    found = evaluate(toy.params(), (), data.padded_batches(arrays, 8))
    error = rows["x"] @ np.asarray(toy.params()["kernel"]) - rows["y"]
    assert found["sse"] == pytest.approx((error**2).sum() / 23, rel=1e-6)
    with pytest.raises(ValueError, match="no batch"):
        evaluate(toy.params(), (), [])


def test_cross_entropy_counts_nats_and_errors():
    logits = jnp.array([[0.0, 0.0], [5.0, 0.0], [0.0, 9.0]])
    sums = training.cross_entropy_sums(logits, jnp.array([0, 1, 0]), jnp.array([1.0, 1.0, 0.0]))
    assert float(sums["loss"]) == pytest.approx(np.log(2) + np.log1p(np.exp(5)), rel=1e-6)
    assert float(sums["error"]) == 1


@pytest.mark.parametrize("name", ["adamw", "momentum", "clipped"])
def test_the_gate_holds_a_leaf_bit_identical_until_its_step(name: str):
    tx = {
        "adamw": optax.adamw(0.1, weight_decay=0.1),
        "momentum": optax.sgd(0.1, momentum=0.9),
        "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    }[name]
    gated = training.gate(tx, [("kernel", 3), ("bias", 0)])
    params, state = toy.params(), gated.init(toy.params())
    warm = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(5):
            updates, state = gated.update(warm, state, params)
            moved = optax.apply_updates(params, updates)
            assert (moved["kernel"] == params["kernel"]).all() == (step < 3)
            assert not (moved["bias"] == params["bias"]).any()
            params = moved


def test_the_gate_keeps_frozen_gradients_out_of_the_clipped_norm():
    tx = training.gate(
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), [("kernel", 9), ("bias", 0)]
    )
    grads = {"kernel": jnp.full((4, 2), 100.0), "bias": jnp.array([0.3, 0.4])}
    updates, _ = tx.update(grads, tx.init(toy.params()), toy.params())
    np.testing.assert_allclose(updates["bias"], [-0.3, -0.4], rtol=1e-6)


def test_a_gate_before_the_first_step_is_refused():
    with pytest.raises(ValueError, match="negative"):
        training.gate(optax.sgd(0.1), [(".*", -1)]).init(toy.params())


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_population_of_any_size_fits_on_two_devices(size: int):
    tx = optax.sgd(0.01)
    step = training.make_step(toy.loss, wlab.identity(), tx)

    def create(key):
        kernel = jax.random.normal(key, (4, 2))
        return training.create_state(
            {"kernel": kernel, "bias": jnp.zeros(2)}, wlab.identity(), tx, key=key
        )

    keys = jax.random.split(jax.random.key(0), size)
    many = training.create_population(create, keys)
    run = training.population(step, size, devices=jax.devices()[:2])
    many, metrics = run(many, toy.rows())
    assert metrics["loss"].shape == (size,)
    one, _ = jax.jit(step)(create(keys[-1]), toy.rows())
    alone = training.member(many, size - 1)
    np.testing.assert_allclose(alone.stored["kernel"], one.stored["kernel"], rtol=1e-6)
    assert int(many.step) == 1


def test_a_population_of_nobody_is_refused():
    with pytest.raises(ValueError, match="size >= 1"):
        training.population(lambda state: (state, ()), 0)
