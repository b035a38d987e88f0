"""Sensitivity against a loop, and plans within a budget against all that there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wlab
from wlab import tree, tying
from wlab.quantization import (
    dequantize_tree,
    int2,
    int3,
    int4,
    int8,
    quantize_tree,
    round_to_grid,
)
from wlab.quantization.planning import plan
from wlab.quantization.sensitivity import logit_kl, loss_rise, output_error, sensitivity

FORMATS = [int8(), int4(), int2()]


def network(p, x):
    return jnp.tanh(x @ p["a"]["kernel"] + p["a"]["bias"][None]) @ p["b"]["kernel"]


def params():
    rng = np.random.default_rng(0)
    shapes = {"a/kernel": (8, 12), "a/bias": (12,), "b/kernel": (12, 4)}
    drawn = {path: rng.standard_normal(shape) for path, shape in shapes.items()}
    leaves = {path: jnp.asarray(x, jnp.float32) for path, x in drawn.items()}
    return {
        "a": {"kernel": leaves["a/kernel"], "bias": leaves["a/bias"]},
        "b": {"kernel": leaves["b/kernel"]},
        "steps": jnp.int32(3),
    }


def batches(count=2):
    rng = np.random.default_rng(1)
    return [(jnp.asarray(rng.standard_normal((5, 8)), jnp.float32),) for _ in range(count)]


# ---------------------------------------------------------------- sensitivity


def test_it_is_a_loop_over_leaves_and_formats():
    found = sensitivity(network, params(), batches(), FORMATS)
    assert found.columns == ("path", "format", "bytes", "harm")
    assert [row[:2] for row in found.rows] == [
        (path, format) for path in ("a/kernel", "b/kernel") for format in FORMATS
    ]
    for path, format, nbytes, harm in found.rows:
        leaf = tree.leaves(params())[path]
        changed = tree.replace(params(), {path: round_to_grid(leaf, format)})
        errors = []
        for (x,) in batches():
            y, rounded = np.asarray(network(params(), x)), np.asarray(network(changed, x))
            errors.append(np.sum((rounded - y) ** 2) / np.sum(y**2))
        np.testing.assert_allclose(harm, np.mean(errors), rtol=1e-3)
        quantized = quantize_tree({"w": leaf}, [("w", format)])
        assert nbytes == tree.nbytes(quantized)


def test_fewer_bits_harm_more():
    found = sensitivity(network, params(), batches(), FORMATS)
    harms = np.asarray([row[-1] for row in found.rows]).reshape(2, 3)
    assert (np.diff(harms, axis=1) > 0).all()


def test_the_function_is_traced_twice_whatever_is_tried():
    traced = []

    def counted(p, x):
        traced.append(None)
        return network(p, x)

    sensitivity(counted, params(), batches(3), [*FORMATS, int3()])
    assert len(traced) == 2  # alone, and beside what it gave


def test_kl_of_logits_is_that_of_their_softmaxes():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 6, 5)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    wanted = np.mean(np.sum(p * np.log(p / q), axis=-1))
    np.testing.assert_allclose(logit_kl(jnp.asarray(a), jnp.asarray(b)), wanted, rtol=1e-5)
    assert float(logit_kl(jnp.asarray(a), jnp.asarray(a + 7))) < 1e-6


def test_a_loss_and_outputs_of_any_structure_will_do():
    def loss(p, x):
        return jnp.mean(network(p, x) ** 2)

    rules = [("b/kernel", True), (".*", None)]
    (row,) = sensitivity(loss, params(), batches(1), [int2()], rules, harm=loss_rise).rows
    (x,) = batches(1)[0]
    leaf = round_to_grid(params()["b"]["kernel"], int2())
    wanted = loss(params() | {"b": {"kernel": leaf}}, x) - loss(params(), x)
    np.testing.assert_allclose(row[-1], wanted, rtol=1e-4)
    two = ({"y": jnp.ones(2)}, jnp.ones(1)), ({"y": jnp.ones(2) * 1.5}, jnp.ones(1))
    np.testing.assert_allclose(output_error(*two), 2 * 0.25 / 3)


def test_what_it_cannot_measure_is_refused():
    with pytest.raises(ValueError, match="at least one batch and one format"):
        sensitivity(network, params(), [], FORMATS)
    with pytest.raises(ValueError, match="'a/kernel' cannot be"):
        sensitivity(network, params(), batches(1), [int4(axis=2)])
    with pytest.raises(TypeError, match="'steps' is int32"):
        sensitivity(network, params(), batches(1), FORMATS, [("steps", True), (".*", None)])


# ---------------------------------------------------------------- plans


def shapes(sizes):
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in zip("abcdefgh", sizes, strict=False)
    }


def curves(harms):
    rows = [
        (path, format, 0, float(harm))
        for path, each in harms.items()
        for format, harm in zip(FORMATS, each, strict=True)
    ]
    return tree.Table(("path", "format", "bytes", "harm"), tuple(rows))


def random_case(seed):
    """Four leaves whose harms mostly, not always, grow as bits get fewer."""
    rng = np.random.default_rng(seed)
    tried = shapes([tuple((8 * rng.integers(2, 9, 2)).tolist()) for _ in range(4)])
    harms = {path: np.cumsum(rng.exponential([0.1, 0.5, 2.0]) - 0.03) for path in tried}
    return tried, curves(harms)


def all_choices(tried, table):
    """(bytes, harm) of every choice: packed codes, and a float32 scale for each column."""
    each = []
    for path, leaf in tried.items():
        options = [(tree.leaf_bytes(leaf), 0.0)]
        for row in table.records():
            if row["path"] == path:
                codes = -(-leaf.shape[1] * row["format"].grid.bits // 8) * leaf.shape[0]
                options.append((codes + 4 * leaf.shape[1], row["harm"]))
        each.append(options)
    return np.asarray([np.sum(one, axis=0) for one in itertools.product(*each)])


@pytest.mark.parametrize("seed", range(3))
def test_no_choice_within_the_bytes_harms_much_less(seed):
    tried, table = random_case(seed)
    everything = all_choices(tried, table)
    largest_step = max(abs(row["harm"]) for row in table.records())
    met = 0
    for budget in np.linspace(everything[:, 0].min(), everything[:, 0].max(), 9).astype(int):
        found = plan(tried, table, budget_bytes=int(budget))
        best = everything[everything[:, 0] <= budget, 1].min()
        assert found.nbytes <= budget
        assert best - 1e-9 <= found.harm <= best + largest_step
        met += found.harm <= best + 1e-9
    assert met >= 5


@pytest.mark.parametrize("seed", range(3))
def test_on_the_convex_hull_no_choice_is_better_at_all(seed):
    """Of all choices together; between its corners the greedy one need not be the best."""
    tried, table = random_case(seed)
    everything = all_choices(tried, table)
    for weight in (1e-5, 1e-4, 3e-4, 1e-3):  # a corner minimizes harm + weight · bytes
        nbytes, harm = everything[np.argmin(everything @ [weight, 1])]
        found = plan(tried, table, budget_bytes=int(nbytes))
        np.testing.assert_allclose((found.nbytes, found.harm), (nbytes, harm), rtol=1e-9, atol=1e-9)
        again = plan(tried, table, max_harm=float(harm) + 1e-9)
        assert again.nbytes == nbytes


@pytest.mark.parametrize("seed", range(3))
def test_a_harm_is_not_exceeded_and_bytes_are_few(seed):
    tried, table = random_case(seed)
    everything = all_choices(tried, table)
    largest_leaf = max(tree.leaf_bytes(leaf) for leaf in tried.values())
    for most in np.linspace(0, everything[:, 1].max(), 7):
        found = plan(tried, table, max_harm=float(most))
        best = everything[everything[:, 1] <= most, 0].min()
        assert found.harm <= most
        assert best <= found.nbytes <= best + largest_leaf


def test_a_plan_from_shapes_is_what_quantize_tree_writes():
    table = sensitivity(network, params(), batches(), FORMATS)
    planned = plan(jax.eval_shape(params), table, budget_bytes=240)
    quantized = quantize_tree(params(), planned.rules)
    assert tree.nbytes(quantized) == planned.nbytes <= 240
    rows = {row["path"]: row for row in planned.table.records()}
    assert list(rows) == ["a/bias", "a/kernel", "b/kernel", "steps", "total"]
    assert rows["a/bias"]["bytes"] == 48
    assert rows["a/bias"]["format"] is None
    assert rows["total"]["bytes"] == planned.nbytes
    assert rows["total"]["bits"] == 8 * planned.nbytes / (96 + 12 + 48 + 1)
    assert {rows[p]["format"] for p in ("a/kernel", "b/kernel")} < {*FORMATS, None}
    assert "int" in str(planned.table)
    assert jax.tree.structure(dequantize_tree(quantized)) == jax.tree.structure(params())


def test_the_sensitive_leaf_keeps_more_bits():
    tried = shapes([(64, 64), (64, 64)])
    table = curves({"a": (0.01, 0.1, 5.0), "b": (0.001, 0.002, 0.003)})
    found = plan(tried, table, budget_bytes=4096 + 2048 + 2 * 256)
    assert dict(found.rules) == {"a": int8(), "b": int4(), ".*": None}
    everything = plan(tried, table, budget_bytes=10**9)
    assert (everything.rules, everything.harm) == ([(".*", None)], 0.0)


def test_a_format_that_helps_is_taken_for_nothing():
    found = plan(shapes([(64, 64)]), curves({"a": (0.0, -0.5, 1.0)}), budget_bytes=10**9)
    assert dict(found.rules) == {"a": int4(), ".*": None}
    assert found.harm == -0.5


def test_a_tied_leaf_is_counted_once():
    shared = {"in": jnp.ones((16, 8)), "out": jnp.ones((8, 16))}
    tie = tying.tie([tying.Tie("out", "in", transpose=True)])
    stored, _ = wlab.chain(tie=tie).init(shared, jax.random.key(0))
    (path,) = tree.paths(stored)
    table = tree.Table(("path", "format", "bytes", "harm"), ((path, int8(), 0, 0.1),))
    assert plan(stored, table, budget_bytes=16 * 8 * 4).nbytes == 16 * 8 * 4
    one = jnp.ones((16, 8))
    twice = tree.Table(table.columns, (("x", int8(), 0, 0.1), ("y", int8(), 0, 0.1)))
    with pytest.raises(ValueError, match=r"\['x', 'y'\] are one array"):
        plan({"x": one, "y": one}, twice, max_harm=1.0)


def test_budgets_that_cannot_be_met_are_refused():
    tried, table = random_case(0)
    with pytest.raises(ValueError, match="bytes over the budget"):
        plan(tried, table, budget_bytes=10)
    with pytest.raises(ValueError, match="even the least harm"):
        plan(tried, table, max_harm=-9.0)
    with pytest.raises(ValueError, match="either budget_bytes or max_harm"):
        plan(tried, table)
    with pytest.raises(ValueError, match="no leaf 'z'"):
        plan(tried, curves({"z": (1, 1, 1)}), max_harm=1.0)
    with pytest.raises(ValueError, match="'a' has the harm nan"):
        plan(tried, curves({"a": (1, float("nan"), 1)}), max_harm=1.0)
