"""Fake quantization as a weight transform: alone, behind a mask, delayed, sharded."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wlab
from wlab import quantization
from wlab.quantization import (
    dequantize,
    dequantize_tree,
    fake_quant,
    int4,
    int8,
    mse,
    quantize,
    quantize_tree,
)

round_to_grid = jax.jit(quantization.round_to_grid, static_argnames=("format", "range_fn"))

RULES = [(".*/kernel", True), (".*", None)]
FORMAT = int4(group_size=16)


def params(n=40, m=24):
    rng = np.random.default_rng(0)
    arrays = {"kernel": rng.standard_normal((n, m)), "bias": rng.standard_normal(m)}
    return {"a": {k: jnp.asarray(x, jnp.float32) for k, x in arrays.items()}, "hole": None}


def test_the_view_is_what_quantize_tree_writes(key):
    t = fake_quant(FORMAT, RULES)
    stored, state = t.init(params(), key)
    rules = [(".*/kernel", FORMAT), (".*", None)]
    written = jax.jit(lambda p: dequantize_tree(quantize_tree(p, rules)))(params())
    seen = jax.jit(t.view)(stored, state, 0)
    jax.tree.map(np.testing.assert_array_equal, seen, written)
    jax.tree.map(np.testing.assert_array_equal, t.finalize(stored, state), seen)
    assert not t.in_place and t.project is None and jax.tree.leaves(state) == []


def test_a_rule_may_bring_its_own_format(key):
    t = fake_quant(FORMAT, [(".*/kernel", int8(axis=None)), (".*/bias", True)])
    stored, state = t.init(params(), key)
    seen = jax.jit(t.view)(stored, state, 0)
    expected = round_to_grid(stored["a"]["kernel"], int8(axis=None))
    np.testing.assert_array_equal(seen["a"]["kernel"], expected)
    np.testing.assert_array_equal(seen["a"]["bias"], round_to_grid(stored["a"]["bias"], FORMAT))


def test_rounding_begins_at_its_step_and_traces_once(key):
    t = fake_quant(FORMAT, RULES, begin=3)
    stored, state = t.init(params(), key)
    traces = []

    @jax.jit
    def view(step):
        traces.append(step)
        return t.view(stored, state, step)["a"]["kernel"]

    np.testing.assert_array_equal(view(2), stored["a"]["kernel"])
    np.testing.assert_array_equal(view(3), round_to_grid(stored["a"]["kernel"], FORMAT))
    assert len(traces) == 1
    _, pushed = jax.jvp(lambda s: t.view(s, state, jnp.int32(5)), (stored,), (stored,))
    jax.tree.map(np.testing.assert_array_equal, pushed, stored)


def test_zeros_of_a_mask_before_it_stay_zero_through_training(key):
    mask = jnp.asarray(np.random.default_rng(1).random((40, 24)) < 0.2)

    def project(tree, state):
        kernel = jnp.where(state, tree["a"]["kernel"], 0)
        return {**tree, "a": {**tree["a"], "kernel": kernel}}

    masked = wlab.WeightTransform(
        init=lambda params, key: (project(params, mask), mask),
        view=lambda stored, state, step: stored,
        project=project,
        in_place=True,
    )
    weights = wlab.chain(prune=masked, quant=fake_quant(int4(symmetric=False), RULES))
    stored, state = weights.init(params(), key)
    tx = optax.sgd(1e-2, momentum=0.9)

    def loss(stored, step):
        return jnp.sum(jnp.square(weights.view(stored, state, step)["a"]["kernel"] - 1))

    @jax.jit
    def train(stored, opt, step):
        updates, opt = tx.update(jax.grad(loss)(stored, step), opt, stored)
        return weights.project(optax.apply_updates(stored, updates), state), opt

    opt, before = tx.init(stored), loss(stored, 0)
    for step in range(5):
        stored, opt = train(stored, opt, step)
    assert float(loss(stored, 5)) < float(before)
    seen = weights.view(stored, state, 5)["a"]["kernel"]
    assert not np.asarray(seen)[~np.asarray(mask)].any()
    np.testing.assert_array_equal(seen, round_to_grid(stored["a"]["kernel"], int4(symmetric=False)))


AXIS_TYPES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
SHARDED = pytest.mark.parametrize("spec", [P("d", None), P(None, "d")], ids=str)
GATHER = re.compile(r"= \w+\[([\d,]*)\][^=]* all-gather\(")


def on_mesh(x, axis_type, spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    return mesh, jax.device_put(x, NamedSharding(mesh, spec))


def largest_gather(text):
    """Elements of the largest all-gather's result in a compiled program."""
    found = GATHER.findall(text)
    return max((int(np.prod([int(n) for n in dims.split(",") if n])) for dims in found), default=0)


def every_way(w, format):
    """The view, its gradient, and what is written and read."""
    view = fake_quant(format, [(".*", True)], gradient="clipped").view
    q = quantize(w, format)
    least = round_to_grid(w, format, range_fn=TWO_FACTORS)
    return view(w, (), 0), jax.grad(lambda w: jnp.sum(view(w, (), 0)))(w), q, dequantize(q), least


TWO_FACTORS = mse((1.0, 0.8))
compiled = jax.jit(every_way, static_argnames="format")


@AXIS_TYPES
@SHARDED
@pytest.mark.parametrize(
    "format",
    [
        FORMAT,
        int4(axis=None, symmetric=False),
        int8(axis=-1, group_size=6),
        int4(axis=(-2, -1), group_size=(16, 6)),
    ],
    ids=str,
)
def test_eight_devices_are_one_device_and_no_leaf_is_gathered(format, spec, axis_type):
    """The groups, 8 times 16 rows or 8 times 6 columns, lie within shards."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((128, 48)), jnp.float32)
    mesh, placed = on_mesh(x, axis_type, spec)
    with jax.set_mesh(mesh):
        program = compiled.lower(placed, format).compile()
        found = program(placed)
    jax.tree.map(np.testing.assert_array_equal, found, compiled(x, format))
    assert found[0].sharding.is_equivalent_to(placed.sharding, 2)
    assert largest_gather(program.as_text()) < x.size / 4


@AXIS_TYPES
@pytest.mark.parametrize(
    ("format", "spec"),
    [(int4(group_size=50), P("d", None)), (int4(axis=-1, group_size=7), P(None, "d"))],
    ids=str,
)
def test_groups_across_shards_are_right_too(format, spec, axis_type):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((120, 40)), jnp.float32)
    mesh, placed = on_mesh(x, axis_type, spec)
    with jax.set_mesh(mesh):
        program = compiled.lower(placed, format).compile()
        found = program(placed)
    jax.tree.map(np.testing.assert_array_equal, found, compiled(x, format))
    if axis_type == AxisType.Explicit:  # under Auto the partitioner decides, and gathers
        assert found[0].sharding == placed.sharding
        assert largest_gather(program.as_text()) < x.size / 4


@AXIS_TYPES
def test_it_runs_eagerly_on_a_mesh_and_inside_shard_map(axis_type):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((120, 40)), jnp.float32)
    format = int4(group_size=50)

    def least(w):
        return round_to_grid(w, format, range_fn=TWO_FACTORS)

    mesh, placed = on_mesh(x, axis_type, P("d", None))
    np.testing.assert_array_equal(
        quantization.round_to_grid(placed, format), round_to_grid(x, format)
    )
    columns = jax.device_put(x, NamedSharding(mesh, P(None, "d")))
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(least, in_specs=P(None, "d"), out_specs=P(None, "d"))
        np.testing.assert_array_equal(jax.jit(mapped)(columns), least(x))


def test_a_population_with_a_delayed_start_is_a_loop(key):
    t = fake_quant(FORMAT, RULES, begin=2)
    stack = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params())
    for step in (0, 2):
        seen = jax.vmap(lambda s, step: t.view(s, (), step), in_axes=(0, None))(stack, step)
        for i in range(2):
            one = t.view(jax.tree.map(lambda x, i=i: x[i], stack), (), step)
            jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), seen, one)


@pytest.mark.parametrize(
    ("build", "error", "named"),
    [
        (lambda: fake_quant(FORMAT, RULES, gradient="straight"), ValueError, "'straight'"),
        (lambda: fake_quant(FORMAT, RULES, begin=-1), ValueError, "begin"),
        (lambda: init([("b/kernel", True), (".*", None)]), ValueError, "'b/kernel' matches no"),
        (lambda: init([(".*/kernel", int4(axis=-3)), (".*", None)]), ValueError, "axis -3"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_training(build, error, named):
    with pytest.raises(error, match=named):
        build()


def init(rules):
    return fake_quant(FORMAT, rules).init(params(), jax.random.key(0))
