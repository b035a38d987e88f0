"""Cached activations are those of the body, row by row, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import identity, training
from wlab.data import digits
from wlab.models import mlp
from wlab.transfer import features, freeze


def batches(*sizes):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, 3)).astype(np.float32), "y": np.arange(n)} for n in sizes]


def body(params, batch):
    return {"x": jnp.tanh(batch["x"] @ params), "y": batch["y"]}


def test_short_batches_are_filled_up_and_cut_again_in_one_trace():
    traces, seen, params = [], [], jnp.asarray(np.eye(3, 2, dtype=np.float32))

    def counted(params, batch):
        traces.append(batch["x"].shape)
        return body(params, batch)

    data = batches(4, 4, 1, 3)
    parts = list(features(counted, params, iter(data), progress=seen.append))
    assert traces == [(4, 3)] and seen == [4, 8, 9, 12]
    for part, batch in zip(parts, data, strict=True):
        assert isinstance(part["x"], np.ndarray)
        np.testing.assert_allclose(part["x"], np.tanh(batch["x"][:, :2]), rtol=1e-6)
        np.testing.assert_array_equal(part["y"], batch["y"])


def test_batches_are_read_only_one_ahead():
    read = []

    def source():
        for i, batch in enumerate(batches(2, 2, 2, 2)):
            read.append(i)
            yield batch

    stream = features(body, jnp.eye(3), source())
    assert read == []
    next(stream)
    assert read == [0, 1]
    assert len(list(stream)) == 3 and read == [0, 1, 2, 3]


def test_a_head_on_cached_features_trains_as_one_behind_a_frozen_body():
    data = digits().train
    x = data["image"][:300].reshape(300, -1).astype(np.float32) / 16
    y = np.eye(10, dtype=np.float32)[data["label"][:300]]
    model = mlp([64, 16, 10])
    params = model.init(jax.random.key(0))

    def hidden(params, batch):
        layer = params["fc1"]
        return jax.nn.relu(batch["x"] @ layer["kernel"] + layer["bias"][None])

    def loss_of(logits, targets, state):
        total = jnp.sum(jnp.square(logits - targets))
        return total, (jnp.float32(len(targets)), state, {})

    def through(params, state, batch, key):
        return loss_of(model.apply(params, batch["x"]), batch["y"], state)

    def on_top(head, state, batch, key):
        return loss_of(batch["x"] @ head["kernel"] + head["bias"][None], batch["y"], state)

    parts = [{"x": x[i : i + 128]} for i in range(0, 300, 128)]
    cached = np.concatenate(list(features(hidden, params, parts)))
    behind = _trained(through, params, freeze([("fc1/.*", True), (".*", None)]), {"x": x, "y": y})
    alone = _trained(on_top, params["fc2"], identity(), {"x": cached, "y": y})
    moved = np.abs(alone["kernel"] - params["fc2"]["kernel"]).max()
    np.testing.assert_allclose(behind["fc2"]["kernel"], alone["kernel"], atol=1e-4 * moved)


def _trained(loss, params, weights, batch):
    tx = optax.sgd(1e-2)
    state = training.init_state(params, weights, tx, key=jax.random.key(1))
    step = training.compile_step(training.make_step(loss, weights, tx), state)
    for _ in range(20):
        state, _ = step(state, batch)
    return state.stored


def test_no_batch_gives_nothing():
    assert list(features(body, jnp.eye(3), [])) == []


@pytest.mark.parametrize(
    ("data", "apply", "message"),
    [
        (batches(2, 3), body, "a batch of 3 rows after one of 2: put the largest first"),
        ([{"x": np.ones((2, 3)), "y": np.ones(3)}], body, "same number of rows"),
        ([{"x": np.ones((0, 3)), "y": np.ones(0)}], body, "at least one"),
        ([{}], body, "at least one"),
        (batches(2), lambda p, b: jnp.sum(b["x"]), r"shape \(\) for 2 rows"),
    ],
)
def test_what_is_not_a_row_for_each_example_is_refused(data, apply, message):
    with pytest.raises(ValueError, match=message):
        list(features(apply, jnp.eye(3), data))
