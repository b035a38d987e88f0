"""Every kind of tree and every optax wrapper; ties and masks."""

import re

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wlab import decay, tree


def flat(params, t):
    return jax.tree.map(jnp.zeros_like, params)


def haiku_params():
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(2)(x)))
    return net.init(jax.random.key(0), jnp.ones((1, 3)))


TREES = {
    "dict": (lambda: {"fc": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}, "fc/kernel"),
    "list": (lambda: [jnp.ones((3, 2)), jnp.ones(2)], "0"),
    "nnx": (lambda: nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param), "kernel"),
    "equinox": (
        lambda: eqx.filter(eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.is_array),
        "weight",
    ),
    "haiku": (haiku_params, "linear/w"),
}


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("kind", TREES)
def test_every_kind_of_tree_decays_by_path(kind, run):
    make, path = TREES[kind]
    before = make()
    rules = [(path, 0.2), (".*", None)]
    tx = optax.chain(decay.toward([(path, 0.0), (".*", None)]), decay.adamw(0.5, rules))
    after = tree.leaves(run(tx, before, flat, 3))
    assert len(after) == 2
    for name, leaf in tree.leaves(before).items():
        np.testing.assert_allclose(after[name], leaf * (0.9**3 if name == path else 1), rtol=1e-6)


def test_a_tied_leaf_is_counted_once():
    table = jnp.asarray([[3.0, 4.0]])
    tied = {"embed": table, "head": {"kernel": None}}
    tx = decay.l2([(".*", 0.1)])
    updates, _ = tx.update(flat(tied, 0), tx.init(tied), tied)
    assert updates["head"]["kernel"] is None
    np.testing.assert_allclose(tree.global_norm(updates), 0.1 * 5.0, rtol=1e-6)
    twice = {"embed": table, "head": {"kernel": table}}  # the control: an alias counts double
    updates, _ = tx.update(flat(twice, 0), tx.init(twice), twice)
    np.testing.assert_allclose(tree.global_norm(updates), 0.1 * 5.0 * 2**0.5, rtol=1e-6)


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("term", [decay.decoupled, decay.cautious, decay.l2, decay.l1])
def test_decay_never_revives_a_masked_weight(term, run):
    mask = np.array([True, False, True])
    tx = optax.chain(term([(".*", 0.3)]), optax.adam(0.1))
    params = {"w": jnp.float32([1.0, 0.0, -2.0])}
    found = run(tx, params, lambda p, t: {"w": jnp.where(mask, jnp.sin(p["w"]), 0)}, 10)["w"]
    np.testing.assert_array_equal(np.asarray(found) != 0, mask)


def test_proximal_l1_never_revives_a_masked_weight(run):
    tx = optax.chain(optax.sgd(0.1), decay.proximal_l1([(".*", 0.01)]))
    found = run(tx, {"w": jnp.float32([1.0, 0.0])}, lambda p, t: {"w": 0 * p["w"]}, 10)["w"]
    assert found[1] == 0 and found[0] == pytest.approx(0.9)


@pytest.mark.usefixtures("mixed_dtypes")
def test_accumulated_steps_decay_once_each(run):
    tx = optax.MultiSteps(optax.chain(decay.decoupled([(".*", 0.2)]), optax.sgd(0.5)), 3)
    found = run(tx, {"w": jnp.ones(2)}, flat, 7)["w"]
    np.testing.assert_allclose(found, 0.9**2, rtol=1e-6)


def test_a_hyperparameter_may_be_injected():
    def make(rate):
        return decay.independent([("w", rate), (".*", None)])

    tx = optax.inject_hyperparams(make)(rate=0.1)
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    state = tx.init(params)
    state.hyperparams["rate"] = jnp.float32(0.25)
    updates, _ = tx.update(flat(params, 0), state, params)
    np.testing.assert_array_equal(updates["w"], [-0.25, -0.25])
    np.testing.assert_array_equal(updates["b"], [0.0, 0.0])


def test_under_masked_the_rules_speak_of_what_is_inside(run):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = optax.masked(decay.independent([("a", 0.1)]), {"a": True, "b": False})
    found = run(tx, params, flat, 2)
    np.testing.assert_allclose(found["a"], 0.81, rtol=1e-6)
    np.testing.assert_array_equal(found["b"], params["b"])


@pytest.mark.usefixtures("mixed_dtypes")
def test_a_non_finite_step_does_not_decay(run):
    tx = optax.apply_if_finite(decay.adamw(0.5, [(".*", 0.2)]), 9)
    params = {"w": jnp.ones(2)}
    found = run(tx, params, lambda p, t: {"w": jnp.full(2, jnp.nan if t == 1 else 0.0)}, 3)["w"]
    np.testing.assert_allclose(found, 0.9**2, rtol=1e-6)


def test_gradients_that_are_missing_are_left_missing():
    params = {"w": jnp.ones(2), "frozen": jnp.ones(2)}
    tx = decay.l2([(".*", 0.1)])
    updates, _ = tx.update({"w": jnp.zeros(2), "frozen": None}, tx.init(params), params)
    assert updates["frozen"] is None


@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit])
def test_every_term_acts_on_shards_in_place(axis):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    terms = (decay.decoupled, decay.independent, decay.l1, decay.proximal_l1, decay.cautious)
    rules = [("w", 0.1)]
    tx = optax.chain(*(term(rules) for term in terms), decay.toward(rules, {"w": np.ones((16, 2))}))
    weights = np.linspace(-1, 1, 32, dtype=np.float32).reshape(16, 2)

    def updated(w):
        params = {"w": w}
        return tx.update(jax.tree.map(jnp.sin, params), tx.init(params), params)[0]["w"]

    with jax.set_mesh(mesh):
        compiled = jax.jit(updated).lower(jax.device_put(weights, sharding)).compile()
        found = compiled(jax.device_put(weights, sharding))
    assert not re.search("all-gather|all-reduce|all-to-all", compiled.as_text())
    np.testing.assert_allclose(found, updated(jnp.asarray(weights)), rtol=1e-5, atol=1e-7)
