import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

import wlab
from wlab import training
from wlab.models import lenet5

SEEN_AS_STORED = wlab.identity()


def one_step(batch, weights=SEEN_AS_STORED, *, mode="jit", mesh=None, **options):
    state = toy.begin(weights, optax.sgd(1.0), **({"mesh": mesh} if mesh else {}))
    step = training.make_step(toy.loss, weights, optax.sgd(1.0), **options)
    return training.compile_step(step, state, mode=mode, mesh=mesh)(state, batch)


def test_a_step_of_sgd_is_the_mean_gradient_by_hand():
    batch = toy.rows()
    state, metrics = one_step(batch)
    expected = toy.mean_gradient(toy.params(), batch)
    for name, start in toy.params().items():
        np.testing.assert_allclose(state.stored[name], start - expected[name], rtol=1e-6)
    assert int(state.step) == 1
    np.testing.assert_allclose(metrics["loss"], metrics["sse"])


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_unevenly_padded_shards_still_give_the_global_mean(mode: str):
    batch = toy.rows(16)
    batch["weight"][9:] = 0  # some devices hold only padding
    state, _ = one_step(batch, mode=mode, mesh=training.mesh_from("data=8"))
    expected = toy.mean_gradient(toy.params(), batch)
    for name, start in toy.params().items():
        np.testing.assert_allclose(state.stored[name], start - expected[name], rtol=1e-5)


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_microbatches_of_unequal_weight_give_the_global_mean(mode: str):
    batch = toy.rows(32)
    batch["weight"][3:20] = 0
    state, metrics = one_step(batch, mode=mode, mesh=training.mesh_from("data=4"), accumulate=4)
    expected = toy.mean_gradient(toy.params(), batch)
    for name, start in toy.params().items():
        np.testing.assert_allclose(state.stored[name], start - expected[name], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], metrics["sse"])


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_the_gradient_of_a_seen_leaf_that_is_not_stored_is_the_global_mean(mode: str):
    batch, bias = toy.rows(), jnp.array([1.0, -2.0])
    looks = wlab.WeightTransform(
        init=lambda p, key: ({"kernel": p["kernel"]}, jax.tree.map(jnp.zeros_like, p)),
        view=lambda stored, state, step: stored | {"bias": bias + 0 * state["bias"]},
        update=lambda stored, grads, state, step: grads,
        needs_grads=True,
    )
    state, _ = one_step(batch, looks, mode=mode, mesh=training.mesh_from("data=4"))
    expected = toy.mean_gradient(toy.params() | {"bias": bias}, batch)
    for name, grads in state.weights.items():
        np.testing.assert_allclose(grads, expected[name], rtol=1e-5, err_msg=name)


def test_a_batch_of_padding_changes_nothing():
    batch = toy.rows()
    batch["weight"][:] = 0
    state, _ = one_step(batch)
    np.testing.assert_array_equal(state.stored["kernel"], toy.params()["kernel"])


def test_a_batch_that_does_not_split_into_microbatches_is_refused():
    with pytest.raises(ValueError, match=r"15 rows .* 4 microbatches"):
        one_step(toy.rows(15), accumulate=4)


def test_the_key_of_a_step_depends_on_the_step_and_the_device_only():
    seen = []

    def noisy(p, model_state, batch, key):
        noise = jax.random.normal(key)
        return noise * jnp.sum(p["kernel"]), (jnp.float32(1), model_state, {"noise": noise})

    tx = optax.sgd(0.0)
    step = jax.jit(training.make_step(noisy, wlab.identity(), tx))
    state = toy.begin(wlab.identity(), tx)
    for _ in range(2):
        _, metrics = step(state, toy.rows())
        seen.append(float(metrics["noise"]))
    state, _ = step(state, toy.rows())
    seen.append(float(step(state, toy.rows())[1]["noise"]))
    assert seen[0] == seen[1] != seen[2]


def test_statistics_are_averaged_over_devices_and_counts_are_not():
    def loss(p, model_state, batch, key):
        total, (weight, _, metrics) = toy.loss(p, model_state, batch, key)
        new = {"mean": jnp.mean(batch["x"]), "count": model_state["count"] + 1}
        return total, (weight, new, metrics)

    tx, mesh = optax.sgd(0.1), training.mesh_from("data=8")
    start = {"mean": jnp.float32(0), "count": jnp.int32(0)}
    state = toy.begin(wlab.identity(), tx, model_state=start, mesh=mesh)
    step = training.make_step(loss, wlab.identity(), tx)
    compiled = training.compile_step(step, state, mode="shard_map", mesh=mesh)
    batch = toy.rows()
    state, _ = compiled(state, batch)
    np.testing.assert_allclose(state.model_state["mean"], batch["x"].mean(), rtol=1e-6)
    assert int(state.model_state["count"]) == 1


def test_the_average_follows_its_formula_and_is_seen_through_the_view():
    tx, decay = optax.sgd(0.1), 0.75
    state = toy.begin(wlab.identity(), tx, ema=True)
    step = training.make_step(toy.loss, wlab.identity(), tx, ema=decay)
    compiled, expected = training.compile_step(step, state), toy.params()["kernel"]
    for _ in range(3):
        state, _ = compiled(state, toy.rows())
        expected = decay * expected + (1 - decay) * state.stored["kernel"]
    seen = training.params_of(state, wlab.identity(), average=True)
    np.testing.assert_allclose(seen["kernel"], expected, rtol=1e-6)


def test_an_average_needs_both_halves():
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match="go together"):
        training.make_step(toy.loss, wlab.identity(), tx, ema=0.9)(
            toy.begin(wlab.identity(), tx), toy.rows()
        )
    with pytest.raises(ValueError, match="keeps no average"):
        training.params_of(toy.begin(wlab.identity(), tx), wlab.identity(), average=True)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about XLA's code for CPUs")
@pytest.mark.parametrize("loop", ["microbatches", "members", "steps"])
def test_loops_convolve_with_channels_last(loop: str):
    model, tx = lenet5(16), optax.sgd(0.1)

    def loss(params, model_state, batch, key):
        del key
        out = model.apply(params, batch["image"])
        return jnp.sum(out**2), (jnp.float32(len(out)), model_state, {})

    def create(key):
        return training.init_state(model.init(key), SEEN_AS_STORED, tx, key=key)

    step = training.make_step(
        loss, SEEN_AS_STORED, tx, accumulate=2 if loop == "microbatches" else 1
    )
    state, batch = create(jax.random.key(0)), {"image": jnp.ones((4, 256))}
    run = step
    if loop == "members":
        state = training.create_population(create, jax.random.split(jax.random.key(0), 2))
        run = training.population(step, 2, devices=jax.devices()[:1])
    elif loop == "steps":
        run = partial(jax.lax.scan, step)
        batch = {"image": jnp.ones((2, 4, 256))}
    text = jax.jit(run).lower(state, batch).compile().as_text()
    assert set(re.findall(r"dim_labels=(\w+->\w+)", text)) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("bad", [{"accumulate": 0}, {"ema": 1.0}])
def test_impossible_settings_are_refused(bad: dict):
    with pytest.raises(ValueError, match=next(iter(bad))):
        training.make_step(toy.loss, wlab.identity(), optax.sgd(0.1), **bad)


def test_mixed_precision_computes_in_bf16_and_keeps_float32_weights():
    dtypes = []

    def loss(p, model_state, batch, key):
        dtypes.append((p["kernel"].dtype, batch["x"].dtype))
        return toy.loss(p, model_state, batch, key)

    tx = optax.sgd(0.1)
    state = toy.begin(wlab.identity(), tx)
    step = training.make_step(training.Precision().wrap(loss), wlab.identity(), tx)
    state, metrics = training.compile_step(step, state)(state, toy.rows())
    assert dtypes[0] == (jnp.bfloat16, jnp.bfloat16)
    assert state.stored["kernel"].dtype == metrics["loss"].dtype == jnp.float32
    exact, _ = jax.jit(training.make_step(toy.loss, wlab.identity(), tx))(
        toy.begin(wlab.identity(), tx), toy.rows()
    )
    np.testing.assert_allclose(state.stored["kernel"], exact.stored["kernel"], atol=0.02)
