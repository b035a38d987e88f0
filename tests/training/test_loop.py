import json
import os
import signal

import jax
import numpy as np
import optax
import pytest
import toy

import wlab
from wlab import training


def compiled(guard=None, rate=0.01):
    tx = optax.sgd(rate)
    state = toy.begin(wlab.identity(), tx)
    step = training.make_step(toy.loss, wlab.identity(), tx, guard=guard)
    return training.compile_step(step, state), state


def test_metrics_of_every_step_reach_the_writer_once(tmp_path):
    step, state = compiled()
    path = tmp_path / "run" / "metrics.jsonl"
    state = training.fit(
        step,
        state,
        lambda i: toy.rows(seed=i),
        steps=7,
        writers=[training.jsonl(path)],
        log_every=2,
        progress=False,
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(lines[0]) == {"step", "loss", "sse"}
    assert int(state.step) == 7


def test_a_line_cut_off_by_a_kill_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "lo')
    training.jsonl(path)(2, {"loss": 1.0})
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 2, "loss": 1.0}


def test_saves_and_hooks_fall_on_their_steps_and_on_the_last():
    step, state = compiled()
    saved, seen = [], []
    training.fit(
        step,
        state,
        lambda i: toy.rows(),
        steps=7,
        save=training.Every(3, lambda i, s: saved.append((i, int(s.step)))),
        hooks=[training.Every(5, lambda i, s: seen.append(i))],
        progress=False,
    )
    assert saved == [(3, 3), (6, 6), (7, 7)]
    assert seen == [5, 7]


def test_a_resumed_run_ends_bit_identical():
    step, state = compiled()
    batch_at = lambda i: toy.rows(seed=i)  # noqa: E731
    halfway = []
    keep = training.Every(4, lambda i, s: halfway.append(jax.device_get(s.stored)))
    whole = training.fit(step, state, batch_at, steps=8, save=keep, progress=False)
    _, fresh = compiled()
    again = fresh._replace(
        stored=jax.tree.map(jax.numpy.asarray, halfway[0]), step=jax.numpy.int32(4)
    )
    resumed = training.fit(step, again, batch_at, steps=8, progress=False)
    jax.tree.map(np.testing.assert_array_equal, whole.stored, resumed.stored)


def test_a_nan_loss_stops_before_it_is_saved():
    step, state = compiled(rate=1e20)
    saved = []
    with pytest.raises(training.NonFiniteError, match="learning rate"):
        training.fit(
            step,
            state,
            lambda i: toy.rows(),
            steps=20,
            save=training.Every(5, lambda i, s: saved.append(i)),
            progress=False,
        )
    assert saved == []


def test_a_guarded_run_stops_by_name_with_its_last_good_weights():
    step, state = compiled(guard=training.Guard(max_consecutive=2))
    broken = toy.rows()
    broken["y"][0, 0] = np.inf
    with pytest.raises(training.NonFiniteError, match=r"the loss.*3 steps in a row"):
        training.fit(
            step,
            state,
            lambda i: broken if i > 2 else toy.rows(),
            steps=20,
            guard=training.Guard(max_consecutive=2),
            progress=False,
        )


def test_sigterm_saves_at_the_next_step_and_exits_with_its_own_code():
    step, state = compiled()
    saved = []

    def batch_at(i):
        if i == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.rows()

    with pytest.raises(training.Preempted) as stopped:
        training.fit(
            step,
            state,
            batch_at,
            steps=100,
            save=training.Every(50, lambda i, s: saved.append(i)),
            progress=False,
        )
    assert stopped.value.code == training.EXIT_CODE == 75
    assert saved == [5]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interval_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        training.Every(0, print)


def test_a_missing_writer_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ImportError, match=r"weightlab\[wandb\]"):
        training.wandb("project")


def test_tensorboard_gets_what_jsonl_gets(tmp_path):
    pytest.importorskip("tensorboardX")
    training.tensorboard(tmp_path)(3, {"loss": 1.5})
    assert list(tmp_path.glob("events*"))
