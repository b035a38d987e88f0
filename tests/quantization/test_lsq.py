"""Learned scales as a weight transform: extras, training, late starts, stages, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_fake import largest_gather, on_mesh

import wlab
from wlab import pruning, tree
from wlab.quantization import (
    dequantize_tree,
    ggml_q8_0,
    int2,
    int4,
    int8,
    integer,
    learned_round,
    lsq,
    lsq_quantized,
    nf4,
    nvfp4,
    start_grid,
)
from wlab.tying import Tie, tie

RULES = [(".*/kernel", True), (".*", None)]
FORMAT = int4(group_size=16)


def matrix(n=20, m=12, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, m)), jnp.float32)


def params():
    return {"a": {"kernel": matrix(40, 24), "bias": jnp.zeros(24)}, "hole": None}


def test_the_extras_lie_at_the_path_of_their_weight_and_start_at_zero(key):
    rules = [(".*/kernel", True), (".*/bias", int8(symmetric=False)), (".*", None)]
    stored, state = lsq(FORMAT, rules).init(params() | {"b": {"bias": matrix()[0]}}, key)
    found = {path: leaf.shape for path, leaf in tree.leaves(stored).items() if path[0] == "+"}
    assert found == {
        "+/a/kernel/scale": (3, 24),
        "+/a/bias/scale": (1,),
        "+/a/bias/offset": (1,),
        "+/b/bias/scale": (1,),
        "+/b/bias/offset": (1,),
    }
    assert not any(leaf.any() for leaf in jax.tree.leaves(stored.extra))
    assert set(state.start) == {"a/kernel", "a/bias", "b/bias"}


def trainer(weights, target):
    """Momentum, mask included: (start, loss, step)."""
    tx = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def loss(stored, state, step):
        seen = weights.view(stored, state, step)["a"]["kernel"]
        return jnp.sum(jnp.square(seen - target))

    @jax.jit
    def train(stored, state, opt, step):
        updates, opt = tx.update(jax.grad(loss)(stored, state, step), opt, stored)
        stored = weights.keep_zeros(optax.apply_updates(stored, updates), state)
        state = weights.next_state(stored, None, state, step)
        return weights.keep_zeros(stored, state), state, opt

    return tx.init, loss, train


def test_trained_scales_are_packed_bit_for_bit(key):
    weights = lsq(int2(group_size=16, scale_dtype="float16"), RULES)
    stored, state = weights.init(params(), key)
    target = 3 * params()["a"]["kernel"]
    begin, loss, train = trainer(weights, target)
    opt, before = begin(stored), loss(stored, state, 0)
    for step in range(30):
        stored, state, opt = train(stored, state, opt, step)
    after = float(loss(stored, state, 30))
    assert after < before and stored.extra["a/kernel"].scale.all()
    unlearned = stored._replace(extra=jax.tree.map(jnp.zeros_like, stored.extra))
    assert after < 0.9 * float(loss(unlearned, state, 30))
    packed = lsq_quantized(stored, state, int2(group_size=16, scale_dtype="float16"), RULES)
    seen = weights.finalize(stored, state)
    jax.tree.map(np.testing.assert_array_equal, dequantize_tree(packed), seen)
    assert packed["a"]["bias"] is stored.params["a"]["bias"]
    for group in np.split(np.asarray(seen["a"]["kernel"]), [16, 32]):
        for column in group.T:
            assert len(np.unique(np.abs(column[column != 0]))) <= 1  # −s, 0 or s


def test_a_delayed_start_takes_its_scale_from_what_the_mask_left(key):
    """The mask keeps a tenth at step 1, and rounding begins at step 3."""
    weights = wlab.chain(
        prune=pruning.magnitude(pruning.oneshot(0.1, at=1), RULES),
        quant=lsq(int4(), RULES, begin=3),
    )
    stored, state = weights.init(params(), key)
    dense = np.asarray(state["quant"].start["a/kernel"].scale)
    kernel = stored.params["a"]["kernel"]
    before = weights.view(stored, state, jnp.int32(2))["a"]["kernel"]
    np.testing.assert_array_equal(before, kernel)
    begin, _, train = trainer(weights, params()["a"]["kernel"])
    opt = begin(stored)
    for step in range(3):
        stored, state, opt = train(stored, state, opt, step)
    kernel = np.asarray(stored.params["a"]["kernel"])
    kept = kernel != 0
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    start = np.asarray(state["quant"].start["a/kernel"].scale)
    mean = np.abs(kernel).sum(0) / np.maximum(kept.sum(0), 1)
    mean = np.where(kept.any(0), mean, np.abs(kernel).sum() / kept.sum())
    np.testing.assert_allclose(start[0], 2 * mean / np.sqrt(7), rtol=1e-5)
    assert start.mean() > 2 * dense.mean()
    assert not stored.extra["a/kernel"].scale.any()

    for step in range(3, 12):
        stored, state, opt = train(stored, state, opt, step)
    seen = np.asarray(weights.view(stored, state, jnp.int32(12))["a"]["kernel"])
    assert stored.extra["a/kernel"].scale.any() and seen.any() and not seen[~kept].any()


def test_later_steps_leave_the_start_alone(key):
    weights = lsq(FORMAT, RULES, begin=3)
    stored, state = weights.init(params(), key)
    doubled = jax.tree.map(lambda x: 2 * x, stored)
    update = jax.jit(weights.next_state)
    for step, factor in ((2, 2), (3, 1), (9, 1)):
        after = update(doubled, None, state, jnp.int32(step))
        expected = factor * state.start["a/kernel"].scale
        np.testing.assert_allclose(after.start["a/kernel"].scale, expected, rtol=1e-6)


@functools.partial(jax.jit, static_argnums=2)
def value_and_slopes(x, grid, format):
    value, pull = jax.vjp(lambda grid: learned_round(x, grid, format), grid)
    return value, pull(jnp.cos(value))[0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_stages_have_their_bits_and_one_learned_scale(symmetric, key):
    format = int4(symmetric=symmetric)
    weights = lsq(format, RULES, stages=[(8, 3), (6, 5)])
    stored, state = weights.init(params(), key)
    x, start = params()["a"]["kernel"], state.start["a/kernel"]
    traces = []

    @jax.jit
    def seen(stored, step):
        traces.append(1)
        shown = lambda stored: weights.view(stored, state, step)["a"]["kernel"]  # noqa: E731
        value, pull = jax.vjp(shown, stored)
        return value, pull(jnp.cos(value))[0].extra["a/kernel"]

    for steps, bits in (((0, 2), 8), ((3, 4), 6), ((5, 99), 4)):
        first, last = (2 ** (b - symmetric) - 1 for b in (4, bits))
        factor = np.sqrt(first / last) if symmetric else first / last
        grid = start._replace(scale=start.scale * np.float32(factor))
        same = integer(bits, symmetric=symmetric)
        np.testing.assert_allclose(grid.scale, start_grid(x, same).scale, rtol=1e-6)
        expected, slopes = value_and_slopes(x, grid, same)
        for step in steps:
            value, found = seen(stored, step)
            np.testing.assert_array_equal(value, expected)
            np.testing.assert_allclose(found.scale, slopes.scale * factor, rtol=1e-3, atol=1e-6)
    assert len(traces) == 1


def test_a_tied_pair_shares_one_grid(key):
    both = {"in": {"kernel": matrix(24, 16)}, "out": {"kernel": matrix(24, 16).T}}
    tied = Tie("out/kernel", "in/kernel", transpose=True)
    weights = wlab.chain(quant=lsq(FORMAT, [(".*", True)]), tie=tie([tied]))
    stored, state = weights.init(both, key)
    assert list(stored.extra) == ["in/kernel"]
    seen = weights.view(stored, state, 0)
    np.testing.assert_array_equal(seen["out"]["kernel"], seen["in"]["kernel"].T)


def test_a_population_with_starts_of_its_own_is_a_loop(key):
    stack = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params())
    begins = jnp.asarray([0, 4])

    def run(params, begin):
        weights = lsq(FORMAT, RULES, begin=begin)
        stored, state = weights.init(params, key)
        state = weights.next_state(stored, None, state, 2)
        return weights.view(stored, state, 3)

    many = jax.jit(jax.vmap(run))(stack, begins)
    for i in range(2):
        one = jax.jit(run)(jax.tree.map(lambda x, i=i: x[i], stack), begins[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), many, one)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("spec", [P("d", None), P(None, "d")], ids=str)
@pytest.mark.parametrize("format", [FORMAT, int4(axis=None, symmetric=False)], ids=str)
def test_eight_devices_are_one_device_and_no_leaf_is_gathered(format, spec, axis_type):
    x = matrix(128, 48)
    weights = lsq(format, [(".*", True)])

    @jax.jit
    def every_way(x, start, moved):
        stored, state = wlab.Stored(x, {"": moved}), type(start_state)({"": start})
        view = lambda stored: weights.view(stored, state, 0)  # noqa: E731
        seen, pull = jax.vjp(view, stored)
        return seen, pull(jnp.cos(seen)), lsq_quantized(stored, state, format, [(".*", True)])

    start_state = weights.init(x, jax.random.key(0))[1]
    start = start_state.start[""]
    moved = jax.tree.map(lambda each: -0.3 * each, start)
    expected = every_way(x, start, moved)
    mesh, placed = on_mesh(x, axis_type, spec)
    with jax.set_mesh(mesh):
        again = jax.jit(weights.init)(placed, jax.random.key(0))[1].start[""]
        grids = jax.device_put((start, moved), NamedSharding(mesh, P()))
        program = every_way.lower(placed, *grids).compile()
        found = program(placed, *grids)
    assert largest_gather(program.as_text()) < x.size / 4
    assert found[0].sharding.is_equivalent_to(placed.sharding, 2)
    np.testing.assert_array_equal(found[0], expected[0])
    jax.tree.map(np.testing.assert_array_equal, found[2], expected[2])
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, start)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        (nf4(), "even grid"),
        (nvfp4, "even grid"),
        (ggml_q8_0, "codes by the stored scale"),
        (int8(scale_dtype="float8_e8m0fnu"), "float16 or bfloat16"),
    ],
    ids=str,
)
def test_formats_whose_scales_cannot_be_learned_are_refused(format, words, key):
    with pytest.raises(ValueError, match=words):
        lsq(format, RULES)
    with pytest.raises(ValueError, match="'a/kernel'.*" + words):
        lsq(FORMAT, [(".*/kernel", format), (".*", None)]).init(params(), key)


def test_other_mistakes_are_named(key):
    with pytest.raises(ValueError, match="begin must be at least 0 steps, got -1"):
        lsq(FORMAT, RULES, begin=-1)
    with pytest.raises(ValueError, match="bits must be 2 to 8, got 16"):
        lsq(FORMAT, RULES, stages=[(16, 3)])
    for stages in ([(8, 5), (6, 5)], [(8, 0)]):
        with pytest.raises(ValueError, match="each stage ends after the one before it"):
            lsq(FORMAT, RULES, stages=stages)
    with pytest.raises(TypeError, match="'a/kernel' is int32"):
        ints = jax.tree.map(lambda x: x.astype(jnp.int32), params())
        lsq(FORMAT, RULES).init(ints, key)
    stored, state = lsq(FORMAT, RULES).init(params(), key)
    with pytest.raises(ValueError, match="'a/bias' has a format but no learned scale"):
        lsq_quantized(stored, state, FORMAT, [(".*", True)])
