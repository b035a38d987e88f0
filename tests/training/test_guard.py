import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

import wlab
from wlab import training


def run_with(batches, guard, **options):
    tx = optax.adam(0.1)
    with jax.numpy_dtype_promotion("standard"):
        state = toy.begin(wlab.identity(), tx, ema=True, **options)
        step = training.make_step(toy.loss, wlab.identity(), tx, guard=guard, ema=0.9)
        compiled = training.compile_step(step, state)
        reports = []
        for batch in batches:
            state, metrics = compiled(state, batch)
            reports.append(jax.device_get(metrics["nonfinite"]))
    return state, reports


def bad():
    batch = toy.rows()
    batch["x"][3, 1] = np.nan
    return batch


def test_a_bad_batch_costs_one_step_and_leaves_no_trace():
    good, _ = run_with([toy.rows()], training.Guard())
    both, reports = run_with([toy.rows(), bad()], training.Guard())
    for name in ("stored", "opt", "weights"):
        jax.tree.map(np.testing.assert_array_equal, getattr(good, name), getattr(both, name))
    assert int(both.step) == 2
    assert int(both.health.skipped) == int(both.health.consecutive) == 1
    assert [int(r["leaf"]) for r in reports] == [-1, 0]


def test_a_good_batch_ends_the_row_but_not_the_count():
    state, _ = run_with([bad(), bad(), toy.rows()], training.Guard())
    assert int(state.health.skipped) == 2
    assert int(state.health.consecutive) == 0


def test_too_many_in_a_row_stop_the_run_and_name_the_leaf():
    from wlab.training.guard import check

    report = {"leaf": 2, "skipped": 3, "consecutive": 3}
    check(report, training.Guard(max_consecutive=3), toy.params(), step=7)
    with pytest.raises(training.NonFiniteError, match=r"Step 7: the gradient of 'kernel'.*3 steps"):
        check(report, training.Guard(max_consecutive=2), toy.params(), step=7)


def test_an_infinite_gradient_behind_a_finite_loss_is_seen():
    def loss(p, model_state, batch, key):
        # The square root's slope at zero is infinite.
        return jnp.sum(jnp.sqrt(p["bias"])), (jnp.float32(1), model_state, {})

    tx = optax.sgd(0.1)
    state = toy.begin(wlab.identity(), tx)
    step = training.make_step(loss, wlab.identity(), tx, guard=training.Guard())
    state, metrics = training.compile_step(step, state)(state, toy.rows())
    assert int(metrics["nonfinite"]["leaf"]) == 1  # the first leaf, bias
    np.testing.assert_array_equal(state.stored["bias"], 0)


def test_a_negative_patience_is_refused():
    with pytest.raises(ValueError, match="max_consecutive"):
        training.Guard(max_consecutive=-1)
