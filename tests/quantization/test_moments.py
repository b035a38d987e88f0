"""Optimizers with moments in few bits: against NumPy and float32, on devices, and kept where."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from moment_twin import SMALL, normal, read_back, relaxed, twin

import wlab
from wlab import checkpoint, pruning, training, tree
from wlab.quantization import Codebook, Format, int8
from wlab.quantization.moment_arrays import Coded
from wlab.quantization.moment_grids import Moment, dynamic, moment_parts
from wlab.quantization.moments import moment_report, quantized_moments

EIGHT = moment_parts(8, block_size=16)
ADAM = relaxed(optax.adam(0.01))


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "fc": {"kernel": normal(rng, 8, 40), "bias": normal(rng, 40)},
        "out": {"kernel": normal(rng, 40, 3)},
    }


# ---------------------------------------------------------------- optimizers


def adam_twin(gradients, *, rate=0.01, b1=0.9, b2=0.999, eps=1e-8):
    """Adam's updates in float32 NumPy with both moments written and read at each step."""
    mu = nu = np.zeros_like(gradients[0])
    updates = []
    for t, g in enumerate(gradients, start=1):
        mu = np.float32(b1) * mu + np.float32(1 - b1) * g
        nu = np.float32(b2) * nu + np.float32(1 - b2) * g * g
        first, second = mu / np.float32(1 - b1**t), nu / np.float32(1 - b2**t)
        updates.append(-np.float32(rate) * first / (np.sqrt(second) + np.float32(eps)))
        mu = twin(mu, bits=8, root=4, block=16, signed=True)[2]
        nu = twin(nu, bits=8, root=4, block=16, signed=False)[2]
    return updates


def test_adam_of_8_bits_is_numpys():
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal((6, 20)).astype(np.float32) for _ in range(4)]
    tx = quantized_moments(ADAM, **SMALL)
    weights = jnp.zeros((6, 20))
    state, update = jax.jit(tx.init)(weights), jax.jit(tx.update)
    for gradient, wanted in zip(gradients, adam_twin(gradients), strict=True):
        found, state = update(jnp.asarray(gradient), state)
        # 1 - 0.999 in float32 is off by 3e-5. A moment within rounding of halfway between two
        # codes may take either.
        apart = np.abs(np.asarray(found) - wanted) > 1e-4 * np.abs(wanted)
        assert apart.sum() <= 1
        np.testing.assert_allclose(found, wanted, rtol=0.1)


@pytest.mark.parametrize(("bits", "apart"), [(8, 0.005), (4, 0.1)])
def test_a_quadratic_is_descended_as_with_float32(bits, apart):
    """How far the loss is from that of float32, of the loss at the start."""
    curvature = jnp.asarray(np.geomspace(0.1, 10, 128).reshape(4, 32), jnp.float32)
    start = normal(np.random.default_rng(0), 4, 32)

    def losses(tx):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(curvature * w, state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), jnp.sum(curvature * w**2)

        return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=150)[1])()

    plain, few = losses(ADAM), losses(quantized_moments(ADAM, bits, **SMALL))
    assert float(jnp.max(jnp.abs(few - plain))) < apart * float(plain[0])
    assert not np.array_equal(few, plain)


KEPT = {
    "adam": (optax.adam(0.1), ["0/mu", "0/nu"]),
    "adamw": (optax.adamw(0.1), ["0/mu", "0/nu"]),
    "amsgrad": (optax.amsgrad(0.1), ["0/mu", "0/nu", "0/nu_max"]),
    "lion": (optax.lion(0.1), ["0/mu"]),
    "rmsprop": (optax.rmsprop(0.1, momentum=0.9, centered=True), ["0/mu", "0/nu", "2/trace"]),
    "momentum": (optax.sgd(0.1, momentum=0.9), ["0/trace"]),
    "adagrad": (optax.adagrad(0.1), ["0/sum_of_squares"]),
    "muon": (optax.contrib.muon(0.1), ["inner_states/muon/inner_state/0/mu"]),
    "schedule_free": (optax.contrib.schedule_free_adamw(0.1), ["base_optimizer_state/0/nu"]),
    "multi_steps": (
        optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
        ["inner_opt_state/0/mu", "inner_opt_state/0/nu"],
    ),
    "inject": (optax.inject_hyperparams(optax.adam)(0.1), ["inner_state/0/mu", "inner_state/0/nu"]),
    "chain": (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), ["1/0/mu", "1/0/nu"]),
    "masked": (
        optax.masked(optax.adam(0.1), {"fc": True, "out": False}),
        ["inner_state/0/mu", "inner_state/0/nu"],
    ),
    "sgd": (optax.sgd(0.1), []),
    "adafactor": (optax.adafactor(0.1, momentum=0.9), []),
}


@pytest.mark.parametrize("name", KEPT)
def test_large_moments_are_kept_in_few_bits_and_nothing_else(name):
    optimizer, wanted = KEPT[name]
    tx = quantized_moments(relaxed(optimizer), **SMALL)
    plain = tree.leaves(jax.eval_shape(optimizer.init, params()))
    state = jax.eval_shape(tx.init, params())
    expected = [f"{moment}/fc/kernel" for moment in wanted]
    expected += [
        p for p in plain if p.endswith("out/kernel") and p[: -len("/out/kernel")] in wanted
    ]
    assert sorted(state.codes) == sorted(expected)
    assert tree.paths(state.rest) == [path for path in plain if path not in state.codes]


@pytest.mark.parametrize("name", ["inject", "masked", "multi_steps"])
def test_the_state_has_the_types_it_had(name):
    tx = quantized_moments(relaxed(KEPT[name][0]), **SMALL)
    state = jax.eval_shape(tx.init, params())
    assert jax.eval_shape(tx.update, params(), state, params())[1] == state


def test_a_module_may_be_called_like_a_moment():
    named = {"mu": {"w": jnp.ones((8, 16))}, "w": jnp.ones((8, 16))}
    state = jax.eval_shape(quantized_moments(ADAM, **SMALL).init, named)
    assert sorted(state.codes) == ["0/mu/mu/w", "0/mu/w", "0/nu/mu/w", "0/nu/w"]
    single = jax.eval_shape(quantized_moments(ADAM, **SMALL).init, named["w"])
    assert sorted(single.codes) == ["0/mu", "0/nu"]


def test_rules_and_sizes_choose():
    tx = quantized_moments(ADAM, rules=[("fc/.*", False), (".*", True)], min_size=120)
    assert sorted(jax.eval_shape(tx.init, params()).codes) == ["0/mu/out/kernel", "0/nu/out/kernel"]
    tx = quantized_moments(ADAM, min_size=121)
    assert sorted(jax.eval_shape(tx.init, params()).codes) == ["0/mu/fc/kernel", "0/nu/fc/kernel"]
    tx = quantized_moments(ADAM, parts={"nu": EIGHT["nu"]}, min_size=200)
    assert sorted(jax.eval_shape(tx.init, params()).codes) == ["0/nu/fc/kernel"]


def test_moments_come_back_in_the_dtype_they_had():
    half = {"kernel": jnp.ones((8, 40), jnp.bfloat16)}
    for mu_dtype in (None, jnp.float32):
        plain = relaxed(optax.adam(0.1, mu_dtype=mu_dtype))
        tx = quantized_moments(plain, **SMALL)
        state = jax.eval_shape(tx.init, half)
        updates, after = jax.eval_shape(tx.update, half, state, half)
        assert after == state
        assert updates == jax.eval_shape(plain.update, half, plain.init(half), half)[0]


@pytest.mark.parametrize(("bits", "per_weight"), [(8, 1.0), (4, 0.5)])
def test_bytes_are_counted(bits, per_weight):
    weights = {"kernel": jax.ShapeDtypeStruct((300, 700), jnp.float32)}
    weights["bias"] = jax.ShapeDtypeStruct((700,), jnp.float32)
    tx = quantized_moments(optax.adam(0.1), bits)
    before = jax.eval_shape(optax.adam(0.1).init, weights)
    found = moment_report(weights, before, jax.eval_shape(tx.init, weights)).records()
    rows = {row["path"]: row for row in found}
    blocks = -(-700 // {8: 256, 4: 128}[bits])
    wanted = 2 * 300 * (700 * per_weight + 4 * blocks)
    assert (rows["kernel"]["before"], rows["kernel"]["after"]) == (2 * 4 * 210_000, wanted)
    assert rows["kernel"]["bits"] == 8 * wanted / 210_000
    assert rows["bias"]["before"] == rows["bias"]["after"] == 2 * 4 * 700
    assert rows["(other)"]["after"] == 4
    assert rows["total"]["after"] == wanted + 5600 + 4


# ---------------------------------------------------------------- wrapped, mapped, placed, stored


def trained(tx, weights, steps):
    """Weights and state after steps whose gradients depend on the step's number only."""
    step = stepping(tx)
    carry = weights, jax.jit(tx.init)(weights)
    for t in range(steps):
        carry = step(carry, jnp.uint32(t))
    assert step._cache_size() == 1
    return carry


def stepping(tx):
    @jax.jit
    def step(carry, t):
        weights, state = carry
        grads = tree.map_leaves(
            lambda path, w: jax.random.normal(tree.path_key(jax.random.key(t), path), w.shape),
            weights,
        )
        updates, state = tx.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state

    return step


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def one_leaf():
    return {"kernel": normal(np.random.default_rng(0), 8, 40)}


MOMENTUM = relaxed(optax.sgd(0.01, momentum=0.9))


def test_inside_a_chain_and_around_an_injection_it_is_the_same():
    alone, _ = trained(quantized_moments(MOMENTUM, **SMALL), one_leaf(), 3)
    chained = optax.chain(optax.identity(), quantized_moments(MOMENTUM, **SMALL))
    injected = optax.inject_hyperparams(
        lambda rate: quantized_moments(relaxed(optax.sgd(rate, momentum=0.9)), **SMALL)
    )(rate=0.01)
    assert_same(trained(chained, one_leaf(), 3)[0], alone)
    found, _ = trained(relaxed(injected), one_leaf(), 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, alone)


def test_accumulating_outside_and_inside_give_the_same_weights():
    outside = optax.MultiSteps(quantized_moments(MOMENTUM, **SMALL), 2).gradient_transformation()
    inside = quantized_moments(optax.MultiSteps(MOMENTUM, 2).gradient_transformation(), **SMALL)
    a, _ = trained(relaxed(outside), one_leaf(), 4)
    b, state = trained(relaxed(inside), one_leaf(), 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)
    _, later = trained(relaxed(inside), one_leaf(), 5)  # the fifth only accumulates
    assert_same(later.codes, state.codes)
    assert_same(later.scales, state.scales)


def test_inside_a_masked_optimizer_it_keeps_what_is_not_masked():
    tx = optax.masked(quantized_moments(ADAM, **SMALL), {"fc": True, "out": False})
    state = jax.eval_shape(tx.init, params())
    assert sorted(state.inner_state.codes) == ["0/mu/fc/kernel", "0/nu/fc/kernel"]
    assert jax.eval_shape(tx.update, params(), state, params())[1] == state


def test_a_population_is_a_loop():
    tx = quantized_moments(MOMENTUM, **SMALL)
    stack = normal(np.random.default_rng(0), 2, 8, 40)

    @jax.jit
    def step(w):
        return tx.update(w, tx.init(w), w)[1].codes["0/trace"]

    np.testing.assert_array_equal(jax.vmap(step)(stack), jnp.stack([step(w) for w in stack]))


SPECS = [P("d", None), P(None, "d")]


@pytest.mark.parametrize(
    ("bits", "columns", "spec", "axis_type"),
    [
        (8, 256, SPECS[0], AxisType.Auto),
        (8, 256, SPECS[1], AxisType.Explicit),
        (4, 256, SPECS[1], AxisType.Auto),
        (4, 120, SPECS[1], AxisType.Explicit),  # blocks and bytes across shards
    ],
    ids=str,
)
def test_eight_devices_are_one_device_bit_for_bit(bits, columns, spec, axis_type):
    tx = quantized_moments(relaxed(optax.sgd(0.1, momentum=0.5)), bits, **SMALL)
    weights = {"kernel": normal(np.random.default_rng(0), 16, columns)}
    whole = trained_with(tx, weights, weights)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(weights, NamedSharding(mesh, spec))
        found = trained_with(tx, placed, placed)
    assert_same(found, whole)
    (codes,) = found[1].codes.values()
    where = placed["kernel"].sharding
    assert found[0]["kernel"].sharding.is_equivalent_to(where, 2)
    assert codes.sharding.is_equivalent_to(where, 2) or columns == 120


def trained_with(tx, weights, grads):
    @jax.jit
    def steps(weights, grads):
        state = tx.init(weights)
        for _ in range(2):
            updates, state = tx.update(grads, state, weights)
            weights = optax.apply_updates(weights, updates)
        return weights, state

    return steps(weights, grads)


def test_inside_shard_map_codes_are_those_of_one_device():
    tx, spec = quantized_moments(MOMENTUM, **SMALL), P(None, "d")
    weights = normal(np.random.default_rng(0), 16, 256)
    state = jax.jit(tx.init)(weights)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    where = jax.tree.map(lambda leaf: spec if leaf.ndim else P(), state)
    mapped = jax.shard_map(
        lambda g, s, w: tx.update(g, s, w)[1].codes,
        mesh=mesh,
        in_specs=(spec, where, spec),
        out_specs=spec,
    )
    found = jax.jit(mapped)(weights, state, weights)
    assert_same(found, jax.jit(tx.update)(weights, state, weights)[1].codes)


def test_codes_and_scales_lie_as_their_weight_does():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx = quantized_moments(ADAM, block_size=16, min_size=64)
    state = training.init_state(
        {"w": jnp.ones((3, 256))},
        wlab.identity(),
        tx,
        key=jax.random.key(0),
        mesh=mesh,
        rules=[("w", training.fsdp())],
    )
    for leaf in jax.tree.leaves((state.opt.codes, state.opt.scales)):
        assert leaf.sharding.spec == P(None, "data")


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path):
    tx = quantized_moments(MOMENTUM, key=jax.random.key(3), **SMALL)
    step = stepping(tx)
    carry = step((one_leaf(), tx.init(one_leaf())), jnp.uint32(0))
    checkpoint.save(tmp_path, 1, carry)
    back = checkpoint.restore(tmp_path, jax.tree.map(jnp.zeros_like, carry)).state
    assert_same(without_key(step(back, jnp.uint32(1))), without_key(step(carry, jnp.uint32(1))))


def without_key(result):
    return result[0], result[1]._replace(key=jax.random.key_data(result[1].key))


# ---------------------------------------------------------------- pruning, chance, refusals


def test_a_pruned_weight_has_no_moments_and_begins_anew():
    tx = quantized_moments(ADAM, **SMALL)
    weights = normal(np.random.default_rng(0), 8, 16)
    alive = jnp.asarray(np.random.default_rng(1).random((8, 16)) < 0.5)
    update = jax.jit(tx.update)
    state = update(weights, jax.jit(tx.init)(weights), weights)[1]
    pruned = jnp.where(alive, weights, 0)
    _, state = update(jnp.where(alive, weights, 0), state, pruned)
    parts = moment_parts(8, block_size=16)
    for name in ("mu", "nu"):
        coded = Coded(state.codes[f"0/{name}"], state.scales[f"0/{name}"])
        read = np.asarray(read_back(coded, parts[name], (8, 16)))
        np.testing.assert_array_equal(read != 0, alive)


def test_weights_pruned_in_training_stay_zero_and_train_on():
    tx = quantized_moments(relaxed(optax.adamw(0.05)), **SMALL)
    weights = pruning.magnitude(0.5, [(".*", True)], every=2)
    x = normal(np.random.default_rng(0), 16, 8)

    def loss_fn(p, model_state, batch, key):
        del key
        return jnp.sum((batch @ p["w"] - 1) ** 2), (jnp.float32(16), model_state, {})

    start = {"w": normal(np.random.default_rng(1), 8, 16)}
    state = training.init_state(start, weights, tx, key=jax.random.key(0))
    step = jax.jit(training.make_step(loss_fn, weights, tx))
    losses = []
    for _ in range(5):
        state, metrics = step(state, x)
        losses.append(float(metrics["loss"]))
    assert np.count_nonzero(state.stored["w"]) == 64
    codes, scales = state.opt.codes["0/mu/w"], state.opt.scales["0/mu/w"]
    mu = read_back(Coded(codes, scales), EIGHT["mu"], (8, 16))
    assert not np.asarray(mu)[np.asarray(state.stored["w"]) == 0].any()
    assert losses[-1] < losses[0]


def test_steps_and_leaves_draw_apart():
    twins = {"a": jnp.ones((4, 32)), "b": jnp.ones((4, 32))}
    grads = jax.tree.map(lambda x: x * jnp.linspace(0.1, 1, 32)[None], twins)
    tx = quantized_moments(relaxed(optax.trace(0.0)), key=jax.random.key(0), **SMALL)
    update = jax.jit(tx.update)
    first = update(grads, jax.jit(tx.init)(twins), twins)[1]
    second = update(grads, first, twins)[1]
    a, b = first.codes["trace/a"], first.codes["trace/b"]
    assert (np.asarray(a) != np.asarray(b)).any()
    assert (np.asarray(a) != np.asarray(second.codes["trace/a"])).any()
    still = jax.eval_shape(quantized_moments(ADAM, **SMALL).init, twins)
    assert (still.key, still.step) == (None, None)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"kept in \[4, 8\] bits, got 6"):
        quantized_moments(ADAM, 6)
    with pytest.raises(ValueError, match="no block_size"):
        quantized_moments(ADAM, parts={}, block_size=64)
    with pytest.raises(ValueError, match="quantized_moments: rule"):
        quantized_moments(ADAM, rules=[("head/.*", False), (".*", True)]).init(params())
    with pytest.raises(ValueError, match="root must be one of"):
        Moment(int8(axis=-1, group_size=8), root=3)
    with pytest.raises(ValueError, match="along the last axis"):
        Moment(int8())
    no_zero = Format(Codebook((-1.0, 1.0)), axis=-1, group_size=8)
    with pytest.raises(ValueError, match="must have a zero"):
        Moment(no_zero)
    with pytest.raises(ValueError, match="3 to 8, got 9"):
        dynamic(9)
