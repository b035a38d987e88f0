import logging

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import decay

BINADE = {"bfloat16": 2**7, "float16": 2**10}


def shrunk_once(dtype, rate):
    """Every significand of a dtype, before and after one step of decay alone."""
    size = BINADE[dtype]
    before = jnp.asarray(1 + np.arange(size) / size, dtype)
    tx = decay.independent([("w", rate)])
    params = {"w": before}
    updates, _ = tx.update({"w": jnp.zeros_like(before)}, tx.init(params), params)
    return before, optax.apply_updates(params, updates)["w"]


@pytest.mark.parametrize("dtype", BINADE)
@pytest.mark.parametrize("multiple", [0.5, 0.98, 1.1, 1.5, 1.9, 2.1, 4.0])
def test_the_report_knows_which_weights_rounding_lets_decay(dtype, multiple):
    rate = multiple * float(jnp.finfo(dtype).eps) / 4  # 2⁻⁹ for bfloat16
    before, after = shrunk_once(dtype, rate)
    moved = np.asarray(before != after)
    (row,) = decay.report({"w": before}, [("w", rate)]).records()
    assert row["decays"] == ("all" if moved.all() else "some" if moved.any() else "none")


def test_a_bfloat16_weight_below_the_threshold_never_decays_and_is_listed(run):
    params = {"w": jnp.ones(3, jnp.bfloat16), "master": jnp.ones(3)}
    tx = optax.chain(decay.decoupled([(".*", 0.1)]), optax.sgd(1e-4))
    found = run(tx, params, lambda p, t: {k: jnp.zeros_like(v) for k, v in p.items()}, 1000)
    np.testing.assert_array_equal(found["w"], params["w"])
    np.testing.assert_allclose(found["master"], 0.9900, rtol=1e-4)
    assert decay.underflow(params, [(".*", 0.1)], 1e-4) == ["w"]


def test_a_bfloat16_weight_above_the_threshold_decays_and_is_not_listed(run):
    params = {"w": jnp.full(3, 1.5, jnp.bfloat16)}
    tx = optax.chain(decay.decoupled([(".*", 0.1)]), optax.sgd(0.1))
    found = run(tx, params, lambda p, t: {"w": jnp.zeros_like(p["w"])}, 69)["w"]
    np.testing.assert_allclose(found.astype(jnp.float32), 0.75, rtol=0.1)
    assert decay.underflow(params, [(".*", 0.1)], 0.1) == []


def test_a_group_halves_in_the_steps_the_report_says(run):
    rules = [("kernel", 0.5), ("bias", None)]
    params = {"bias": jnp.ones(2), "kernel": jnp.ones(2)}
    bias, kernel = decay.report(params, rules, 0.02).records()
    assert (bias["half_life"], bias["decays"]) == (None, None)
    assert kernel["half_life"] == pytest.approx(69.3, abs=0.1)
    tx = optax.chain(decay.decoupled(rules), optax.sgd(0.02))
    found = run(tx, params, lambda p, t: {k: jnp.zeros_like(v) for k, v in p.items()}, 69)
    np.testing.assert_allclose(found["kernel"], 0.5, rtol=0.01)


def test_the_published_half_life():
    (row,) = decay.report({"w": jnp.ones(1)}, [("w", 0.1)], 1e-3).records()
    assert round(row["half_life"]) == 6931


def test_schedules_are_read_at_the_step_asked_for():
    warmup = optax.linear_schedule(0.0, 1e-3, 100)
    (row,) = decay.report({"w": jnp.ones(1)}, [("w", lambda t: 0.1)], warmup, step=50).records()
    assert row["rate"] == pytest.approx(5e-5)


def test_a_report_needs_shapes_only():
    table = str(decay.report({"w": jnp.zeros((1,), jnp.bfloat16)}, [("w", 0.1)], 1e-4))
    assert "bfloat16" in table and "none" in table


@pytest.mark.parametrize(
    "tx",
    [
        decay.adamw(1e-4, [(".*", 0.1)]),
        decay.lion(1e-4, [(".*", 0.1)]),
        decay.independent([(".*", 1e-5)]),
        decay.cautious([(".*", 0.1)], lr=1e-4),
    ],
)
def test_building_an_optimizer_whose_decay_underflows_warns_with_the_remedy(tx, caplog):
    with caplog.at_level(logging.WARNING, "wlab.decay"):
        tx.init({"layer": {"kernel": jnp.ones(3, jnp.bfloat16)}})
    assert "['layer/kernel']" in caplog.text and "Store them in float32" in caplog.text


@pytest.mark.parametrize(
    ("lr", "rate", "dtype"),
    [(1e-4, 0.1, "float32"), (0.1, 0.1, "bfloat16"), (lambda t: 1e-4, 0.1, "bfloat16")],
)
def test_nothing_is_said_where_decay_works_or_is_not_known(lr, rate, dtype, caplog):
    decay.adamw(lr, [(".*", rate)]).init({"w": jnp.ones(3, dtype)})
    assert caplog.text == ""
