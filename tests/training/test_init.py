import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from jax.sharding import PartitionSpec as P

import wlab
from wlab import pruning, training, tree

RULES = [("kernel", P("data")), ("bias", P())]


def test_the_callers_arrays_are_copied():
    params = toy.params()
    state = training.init_state(params, wlab.identity(), optax.sgd(0.1), key=jax.random.key(0))
    pointer = params["kernel"].unsafe_buffer_pointer()
    assert state.stored["kernel"].unsafe_buffer_pointer() != pointer


def test_moments_masks_and_averages_lie_as_their_weight():
    def init(key):
        return {"kernel": jax.random.normal(key, (64, 6)), "bias": jnp.zeros(6)}

    weights = pruning.magnitude(0.5, [("kernel", True), ("bias", None)])
    state = training.init_state(
        init,
        weights,
        optax.adam(0.1),
        key=jax.random.key(0),
        ema=True,
        mesh=training.mesh_from("data=8"),
        rules=RULES,
    )
    specs = {path: leaf.sharding.spec for path, leaf in tree.leaves(state).items()}
    split = {path for path, spec in specs.items() if "data" in spec}
    assert split == {
        "stored/kernel",
        "opt/0/mu/kernel",
        "opt/0/nu/kernel",
        "weights/masks/kernel",
        "ema/kernel",
    }
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))


def test_a_dimension_that_does_not_divide_stays_whole_in_the_state_only():
    weights = pruning.magnitude(0.5, [("kernel", True), ("bias", None)])
    params = {"kernel": jnp.ones((24, 6)), "bias": jnp.zeros(6)}  # 24 rows are 3 bytes of mask
    state = training.init_state(
        params,
        weights,
        optax.sgd(0.1),
        key=jax.random.key(0),
        mesh=training.mesh_from("data=8"),
        rules=RULES,
    )
    assert state.stored["kernel"].sharding.spec[0] == "data"
    assert "data" not in state.weights.masks["kernel"].sharding.spec


def test_fsdp_splits_the_largest_dimension_that_divides():
    mesh = training.mesh_from("data=8")
    spec = training.fsdp("data")
    assert spec((16, 64), mesh) == P(None, "data")
    assert spec((64, 64), mesh) == P("data", None)
    assert spec((16, 60), mesh) == P("data", None)
    assert spec((10,), mesh) == P()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("kernel", P("data")), ("bias", P("data"))], r"does not divide leaf 'bias'"),
        ([("kernel", P("rows")), ("bias", P())], r"does not divide leaf 'kernel'"),
        ([("kernel", P())], r"no rule matches leaf 'bias'"),
        ([("kernel", P()), ("bias", P()), ("head", P())], r"'head' matches no leaf"),
    ],
)
def test_shardings_that_do_not_fit_are_named(rules: list, message: str):
    with pytest.raises(ValueError, match=message):
        toy.begin(wlab.identity(), optax.sgd(0.1), mesh=training.mesh_from("data=4"), rules=rules)


def test_an_array_at_two_paths_is_refused_with_the_tie_to_write():
    shared = jnp.ones((3, 3))
    with pytest.raises(ValueError, match=r"Tie\("):
        training.init_state(
            {"a": shared, "b": shared}, wlab.identity(), optax.sgd(0.1), key=jax.random.key(0)
        )


@pytest.mark.parametrize(
    ("leaf", "message"), [(jnp.arange(3), "no gradient"), (jax.nn.relu, "not an array")]
)
def test_leaves_that_cannot_be_trained_are_named(leaf: object, message: str):
    with pytest.raises(TypeError, match=rf"'extra'.*{message}"):
        training.init_state(
            {"w": jnp.ones(3), "extra": leaf},
            wlab.identity(),
            optax.sgd(0.1),
            key=jax.random.key(0),
        )


def test_a_sharded_init_never_holds_the_whole_array_on_one_device():
    def init(key):
        return {"kernel": jax.random.normal(key, (64, 8)), "bias": jnp.zeros(8)}

    state = training.init_state(
        init,
        wlab.identity(),
        optax.adam(0.1),
        key=jax.random.key(0),
        mesh=training.mesh_from("data=8"),
        rules=RULES,
    )
    assert {s.data.shape for s in state.opt[0].mu["kernel"].addressable_shards} == {(8, 8)}
    whole = training.init_state(init, wlab.identity(), optax.adam(0.1), key=jax.random.key(0))
    np.testing.assert_array_equal(whole.stored["kernel"], state.stored["kernel"])


@pytest.mark.parametrize(
    ("tx", "said"),
    [(optax.adafactor(0.1, min_dim_size_to_factor=4), True), (optax.adam(0.1), False)],
)
def test_statistics_that_no_weight_can_be_told_from_are_reported(tx, said, caplog):
    weights = pruning.magnitude(0.5, [("kernel", True), ("bias", None)])
    params = {"kernel": jnp.ones((8, 8)), "bias": jnp.zeros(8)}
    with caplog.at_level(logging.INFO, "wlab.training"):
        training.init_state(params, weights, tx, key=jax.random.key(0))
    assert ("v_row/kernel" in caplog.text) == said
