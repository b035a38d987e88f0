"""Steps are written once, kept by rule, and never at the price of an earlier one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loop_states import loop_state
from same_bits import assert_same_bits

from wlab.checkpoint import Best, Saver, best, latest, restore, save, steps

SMALL = {"w": jnp.arange(4.0)}


def test_a_training_state_comes_back_bit_for_bit(tmp_path):
    state = loop_state()
    save(tmp_path, 5, state, recipe={"lr": 0.1}, metrics={"error": 0.25})
    restored = restore(tmp_path, state)
    assert_same_bits(restored.state, state)
    assert (restored.step, restored.skipped) == (5, {})
    assert restored.recipe == {"lr": 0.1}
    assert restored.metrics == {"error": 0.25}


def test_a_loop_keeps_the_newest_steps(tmp_path):
    with Saver(tmp_path, keep=2) as saver:
        for step in (1, 2, 3, 4):
            assert saver.save(step, {"w": jnp.full(4, step)})
    assert steps(tmp_path) == [3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


def test_the_best_steps_are_kept_beside_the_newest(tmp_path):
    errors = {1: 0.5, 2: 0.1, 3: float("nan"), 4: 0.3, 5: 0.4, 6: 0.6}
    with Saver(tmp_path, keep=2, best=Best("error", keep=2)) as saver:
        for step, error in errors.items():
            saver.save(step, {"w": jnp.full(4, step)}, metrics={"error": error})
    assert steps(tmp_path) == [2, 4, 5, 6]
    assert best(tmp_path, Best("error")) == 2
    assert best(tmp_path, Best("error", mode="max")) == 6
    assert best(tmp_path, Best("accuracy")) is None


def test_a_step_is_latest_only_when_it_is_finished(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, SMALL)
        saver.wait()
        assert latest(tmp_path) == 1
        (tmp_path / "2").mkdir()
        assert latest(tmp_path) == 1


def test_keeping_fewer_than_two_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 2 steps, got 1"):
        Saver(tmp_path, keep=1)


def test_a_best_step_needs_its_metric(tmp_path):
    with (
        pytest.raises(ValueError, match=r"metrics \['loss'\] lack 'error'"),
        Saver(tmp_path, best=Best("error")) as saver,
    ):
        saver.save(1, SMALL, metrics={"loss": 1.0})


def test_saving_the_same_step_again_does_nothing(tmp_path):
    assert save(tmp_path, 1, SMALL)
    before = (tmp_path / "1" / "commit_success.txt").stat().st_mtime_ns
    assert not save(tmp_path, 1, SMALL)
    assert (tmp_path / "1" / "commit_success.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize(("step", "why"), [(2, "is there already"), (1, "step 2 is newer")])
def test_no_step_is_overwritten_or_slipped_in_behind(tmp_path, step, why):
    save(tmp_path, 2, SMALL)
    with pytest.raises(ValueError, match=why):
        save(tmp_path, step, {"w": jnp.zeros(4)})
    assert_same_bits(restore(tmp_path, SMALL).state, SMALL)


def test_a_new_saver_clears_what_a_killed_run_left(tmp_path):
    save(tmp_path, 1, SMALL)
    (tmp_path / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "0.deleting").mkdir()
    (tmp_path / "3").mkdir()
    (tmp_path / "notes").mkdir()
    save(tmp_path, 3, SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3", "3.damaged", "notes"]


def test_the_state_may_be_donated_right_after_save_returns(tmp_path):
    consume = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    held = {"w": jnp.arange(1 << 20, dtype=jnp.float32)}
    with Saver(tmp_path) as saver:
        for step in (1, 2):
            saver.save(step, held)
            held = consume(held)
    for step in (1, 2):
        found = restore(tmp_path, held, step=step).state["w"]
        np.testing.assert_array_equal(found, np.arange(1 << 20, dtype=np.float32) + step - 1)


@pytest.mark.parametrize("leaf", [3, 2.5, "text"])
def test_a_leaf_that_is_no_array_is_refused_by_name(tmp_path, leaf):
    with pytest.raises(TypeError, match=f"leaf 'a/lr' is a {type(leaf).__name__}"):
        save(tmp_path, 1, {"a": {"lr": leaf}})


def test_an_empty_leaf_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"leaf 'w' of shape \(0, 3\) is empty"):
        save(tmp_path, 1, {"w": jnp.zeros((0, 3))})


def test_a_recipe_that_is_not_json_is_refused_by_key(tmp_path):
    with pytest.raises(TypeError, match="'schedule' is not plain JSON"):
        Saver(tmp_path, recipe={"lr": 1.0, "schedule": object()})


def test_two_states_of_one_loop_differ(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, loop_state(1))
        saver.save(2, loop_state(2))
    assert_same_bits(restore(tmp_path, loop_state(), step=1).state, loop_state(1))
    assert_same_bits(restore(tmp_path, loop_state(), step=2).state, loop_state(2))
