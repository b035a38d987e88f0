"""The recipes against optax's own optimizers, bit for bit where they mean the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as optax_muon

from wlab import Stored, decay, tree

pytestmark = pytest.mark.usefixtures("mixed_dtypes")

RULES = [(".*kernel", 0.3), (".*", None)]
MATRICES = [("dense/kernel", True), (".*", None)]
LR = optax.linear_schedule(0.1, 0.01, 5)
MASK = {"dense": {"kernel": True, "bias": False}, "embed": False}
SAME = {
    "sgd": (decay.sgd(LR), optax.sgd(LR)),
    "momentum": (decay.momentum(LR, beta=0.8), optax.sgd(LR, 0.8)),
    "nesterov": (decay.momentum(LR, nesterov=True), optax.sgd(LR, 0.9, True)),
    "adagrad": (decay.adagrad(LR), optax.adagrad(LR)),
    "rmsprop": (decay.rmsprop(LR), optax.rmsprop(LR)),
    "adam": (decay.adam(LR), optax.adam(LR)),
    "adamw": (decay.adamw(LR, RULES), optax.adamw(LR, weight_decay=0.3, mask=MASK)),
    "lion": (decay.lion(LR, RULES), optax.lion(LR, weight_decay=0.3, mask=MASK)),
    "clipped": (
        decay.adam(0.1, clip=0.5),
        optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    ),
}


def params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "dense": {
            "kernel": jax.random.normal(keys[0], (6, 4)),
            "bias": jax.random.normal(keys[1], (4,)),
        },
        "embed": jax.random.normal(keys[2], (5, 6)),
    }


def grad(params, t):
    return jax.tree.map(lambda w: jnp.sin(3 * w + t), params)


@pytest.mark.parametrize("name", SAME)
def test_a_recipe_is_optax_bit_for_bit(name, run):
    ours, theirs = SAME[name]
    expected = run(theirs, params(), grad, 6)
    jax.tree.map(np.testing.assert_array_equal, run(ours, params(), grad, 6), expected)


def test_muon_takes_the_leaves_it_is_given_and_adam_the_rest(run):
    found = run(decay.muon(0.1, MATRICES, adam_scale=0.5), params(), grad, 6)
    muon = run(optax_muon(0.1), params(), grad, 6)
    adam = run(optax.adam(0.05, b2=0.95), params(), grad, 6)
    np.testing.assert_allclose(found["dense"]["kernel"], muon["dense"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(found["dense"]["bias"], adam["dense"]["bias"], rtol=1e-5)
    np.testing.assert_allclose(found["embed"], adam["embed"], rtol=1e-5)


def test_muon_decays_both_groups_times_lr(run):
    def still(params, t):
        return jax.tree.map(jnp.zeros_like, params)

    tx = decay.muon(0.1, MATRICES, [(".*", 0.5)], adam_scale=0.1)
    found = run(tx, params(), still, 4)
    expected = jax.tree.map(lambda w: w * 0.95**4, params())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_muon_orthogonalizes_a_many_headed_kernel_as_its_matrix(run):
    matrix = {"q": jax.random.normal(jax.random.key(1), (6, 8))}
    heads = {"q": matrix["q"].reshape(6, 2, 4)}
    axes = MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2))
    flat = run(decay.muon(0.1, [("q", True)]), matrix, grad, 3)["q"]
    found = run(decay.muon(0.1, [("q", axes)]), heads, grad, 3)["q"]
    np.testing.assert_allclose(found.reshape(6, 8), flat, rtol=1e-4, atol=1e-6)


def test_muon_refuses_a_leaf_that_is_no_matrix():
    with pytest.raises(ValueError, match=r"'dense/bias' is float32\[4\], not a matrix"):
        decay.muon(0.1, [(".*", True)]).init(params())


def test_muon_refuses_a_dead_rule():
    with pytest.raises(ValueError, match="muon: rule 'head' matches no leaf"):
        decay.muon(0.1, [("head", None), (".*kernel", True), (".*", None)]).init(params())


def test_muon_leaves_extra_trainables_to_adam():
    stored = Stored(params(), {"dense/kernel": jnp.ones((1, 1))})
    state = decay.muon(0.1, MATRICES).init(stored)["muon"].inner_states
    assert any("+/dense/kernel" in path for path in tree.paths(state["adam"]))
    assert not any("+/" in path for path in tree.paths(state["muon"]))


def test_l2_comes_before_the_clip_and_decay_after_the_scaling():
    rules = [(".*", 0.3)]
    assert list(decay.adam(0.1, rules, clip=1.0).init(params())) == ["l2", "clip", "adam", "lr"]
    assert list(decay.adamw(0.1, rules, clip=1.0).init(params())) == ["clip", "adam", "decay", "lr"]


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("lr", lambda: decay.sgd(-0.1)),
        ("lr", lambda: decay.muon(float("nan"), MATRICES)),
        ("clip", lambda: decay.adam(0.1, clip=-1.0)),
    ],
)
def test_negative_settings_are_refused(name, build):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got"):
        build()
