"""Adapters and frozen leaves in the compiled step, on one device and on eight."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab import training, tree
from wlab.training.compile import Mode
from wlab.transfer import Adapter, discriminative, dora, freeze, lora, pissa, unfreeze_at

RULES = [(".*/kernel", True), (".*", None)]
TRANSFORMS = {
    "freeze": freeze([("body/.*", True), (".*", False)]),
    "lora": lora(Adapter(2, alpha=3), RULES),
    "dora, head trained": lora(
        dora(2), [("body/kernel", True), ("head/.*", "train"), (".*", None)]
    ),
    "pissa": lora(Adapter(2, start=pissa), RULES),
}
EACH = pytest.mark.parametrize("name", TRANSFORMS)


def params():
    rng = np.random.default_rng(0)
    shapes = {
        "body": {"kernel": (8, 8), "bias": (8,)},
        "head": {"kernel": (8, 4), "bias": (4,)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s).astype(np.float32)) / 3,
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def batch():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 8)).astype(np.float32)
    return {"x": x, "y": np.tanh(x[:, :4] - x[:, 4:]).astype(np.float32)}


def loss(seen, model_state, batch, key):
    del key
    hidden = jnp.tanh(batch["x"] @ seen["body"]["kernel"] + seen["body"]["bias"][None])
    error = hidden @ seen["head"]["kernel"] + seen["head"]["bias"][None] - batch["y"]
    return jnp.sum(jnp.square(error)), (jnp.float32(len(error)), model_state, {})


def adamw():
    return optax.adamw(3e-3, weight_decay=0.1)


def train(weights, tx, steps, *, mesh=None, mode: Mode = "jit", ema=None):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises floats to int32 powers
        state = training.init_state(
            params(),
            weights,
            tx,
            key=jax.random.key(0),
            mesh=mesh,
            ema=ema is not None,
        )
        step = training.make_step(loss, weights, tx, ema=ema)
        run = training.compile_step(step, state, mode=mode, mesh=mesh)
        first, losses = jax.tree.map(jnp.copy, state), []
        for _ in range(steps):
            state, metrics = run(state, batch())
            losses.append(metrics["loss"])
    return first, state, [float(loss) for loss in losses]


@EACH
def test_what_is_frozen_keeps_every_bit_over_a_thousand_steps_of_adamw(name):
    weights = TRANSFORMS[name]
    first, last, losses = train(weights, adamw(), 1000, ema=0.99)
    before, after = tree.leaves(first.weights), tree.leaves(last.weights)
    assert before
    for path in before:
        assert before[path].tobytes() == after[path].tobytes(), path
    seen = tree.leaves(training.params_of(last, weights, average=True))
    for path, leaf in tree.leaves(params()).items():
        frozen = f"frozen/{path}" in before
        assert (seen[path].tobytes() == leaf.tobytes()) == frozen, path
    assert losses[-1] < 0.8 * losses[0]
    moments = tree.count(last.opt) - 1  # Adam's step
    assert moments == 2 * tree.count(last.stored) == 2 * tree.count(last.ema)


@pytest.mark.parametrize(
    ("explicit", "mode"),
    [
        (False, "jit"),
        pytest.param(True, "jit", marks=pytest.mark.long),
        pytest.param(False, "shard_map", marks=pytest.mark.long),
        (True, "shard_map"),
    ],
)
@EACH
def test_eight_devices_train_as_one(name, explicit, mode):
    weights = TRANSFORMS[name]
    _, one, _ = train(weights, adamw(), 3)
    mesh = training.mesh_from("data=8", explicit=explicit)
    _, eight, _ = train(weights, adamw(), 3, mesh=mesh, mode=mode)
    for (path, x), y in zip(
        tree.leaves(one.stored).items(), jax.tree.leaves(eight.stored), strict=True
    ):
        np.testing.assert_allclose(x, np.asarray(y), rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("adapter", [Adapter(2, alpha=3), dora(2)], ids=["lora", "dora"])
def test_factors_on_a_mesh_give_one_devices_kernel_where_the_base_lies(axes, adapter, key):
    kernel = np.random.default_rng(3).integers(-4, 5, (16, 8)).astype(np.float32)
    weights = lora(adapter, [(".*", True)])
    stored, state = weights.init({"w": jnp.asarray(kernel)}, key)
    stored = jax.tree.map(lambda x: jnp.round(8 * x) + 1, stored)
    want = weights.finalize(stored, state)["w"]
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axes,) * 2)
    specs = {"w/a": P("data", None), "w/b": P(None, "model"), "w/m": P("data")}
    with jax.set_mesh(mesh):

        def put(x, spec):
            return jax.device_put(np.asarray(x), NamedSharding(mesh, spec))

        placed = tree.map_leaves(lambda path, x: put(x, specs[path]), stored)
        base = jax.tree.map(lambda x: put(x, P("data", "model")), state)
        got = jax.jit(weights.view)(placed, base, 0)["w"]
        text = jax.jit(weights.view).lower(placed, base, 0).compile().as_text()
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-6)
    assert got.sharding.is_equivalent_to(NamedSharding(mesh, P("data", "model")), 2)
    if not adapter.magnitude:
        assert not re.search("all-gather|all-to-all|collective-permute|all-reduce", text or "")


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("adapter", [Adapter(2), dora(2, start=pissa)], ids=["lora", "pissa"])
def test_an_adapter_of_a_sharded_kernel_begins_where_the_kernel_lies(axes, adapter, key):
    kernel = np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axes,) * 2)
    weights = lora(adapter, [(".*", True)])
    with jax.set_mesh(mesh):
        placed = {"w": jax.device_put(kernel, NamedSharding(mesh, P("data", "model")))}
        stored, state = jax.jit(weights.init)(placed, key)
        seen = jax.jit(weights.view)(stored, state, 0)["w"]
    np.testing.assert_allclose(np.asarray(seen), kernel, atol=1e-6)
    assert state.base["w"].sharding.is_equivalent_to(placed["w"].sharding, 2)


@EACH
def test_a_population_sees_what_its_members_see(name):
    weights = TRANSFORMS[name]
    keys = jax.random.split(jax.random.key(5), 3)
    many = jax.vmap(weights.init, in_axes=(None, 0))(params(), keys)
    seen = jax.jit(jax.vmap(weights.view, in_axes=(0, 0, None)))(*many, 0)
    for i, key in enumerate(keys):
        alone = weights.view(*weights.init(params(), key), 0)
        for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(seen), strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-5, atol=1e-6)


def test_gradual_unfreezing_holds_the_body_and_discriminative_rates_slow_it():
    depths = [("head/.*", 0), ("body/.*", 1)]
    weights = lora(Adapter(2, start=pissa), RULES)
    slowed = optax.chain(optax.sgd(1e-2), discriminative(depths, ratio=2.0))
    plain_first, plain, _ = train(weights, optax.sgd(1e-2), 1)
    _, slow, _ = train(weights, slowed, 1)
    moved = [
        {p: np.asarray(leaf) - np.asarray(tree.leaves(plain_first.stored)[p]) for p, leaf in leaves}
        for leaves in (tree.leaves(plain.stored).items(), tree.leaves(slow.stored).items())
    ]
    for path, step in moved[0].items():
        factor = 2.0 if path.startswith("body") else 1.0
        np.testing.assert_allclose(step, factor * moved[1][path], rtol=1e-3, atol=1e-6)

    gated = training.gate(adamw(), unfreeze_at(depths, every=3))
    first, held, _ = train(weights, gated, 3)
    _, free, _ = train(weights, gated, 4)
    for path, leaf in tree.leaves(first.stored).items():
        same = tree.leaves(held.stored)[path].tobytes() == leaf.tobytes()
        assert same == path.startswith("body")
        assert tree.leaves(free.stored)[path].tobytes() != leaf.tobytes()


@pytest.mark.parametrize("name", ["freeze", "lora"])
def test_a_frozen_base_is_split_by_the_rules_of_the_weights(name):
    mesh = training.mesh_from("data=8")
    kernel = jax.random.normal(jax.random.key(0), (16, 8))
    params = {"body": {"kernel": kernel}, "head": {"kernel": kernel.T}}
    weights = {
        "freeze": freeze([("body/.*", True), (".*", False)]),
        "lora": lora(Adapter(2), [("body/kernel", True), ("head/.*", "train"), (".*", None)]),
    }[name]
    rules = [("body/kernel", training.fsdp()), (".*", P())]
    state = training.init_state(
        params, weights, optax.sgd(0.1), key=jax.random.key(1), mesh=mesh, rules=rules
    )
    (base,) = [x for x in jax.tree.leaves(state.weights) if x.shape == kernel.shape]
    assert base.sharding.spec == P("data", None)
    np.testing.assert_array_equal(base, kernel)
    with pytest.raises(ValueError, match=r"'boddy/\.\*' matches no leaf"):
        training.init_state(
            params,
            weights,
            optax.sgd(0.1),
            key=jax.random.key(1),
            mesh=mesh,
            rules=[("boddy/.*", training.fsdp()), *rules],
        )
