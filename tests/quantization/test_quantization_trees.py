"""QTensors in trees: planned, checked, stored, counted, reported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.quantization import (
    QTensor,
    check,
    dequantize,
    dequantize_tree,
    effective_bits,
    int4,
    int8,
    integer,
    is_qtensor,
    quantize,
    quantize_tree,
    report,
    sqnr,
)
from wlab.quantization.trees import chosen_formats


def kernel(*shape):
    rng = np.random.default_rng(0)
    return jnp.asarray(0.05 * rng.standard_normal(shape), jnp.float32)


def params():
    return {
        "a": {"kernel": kernel(300, 10), "bias": kernel(10)},
        "b": {"kernel": kernel(64, 8).astype(jnp.bfloat16), "count": jnp.array(3)},
        "hole": None,
    }


RULES = [
    ("a/kernel", int4(group_size=128, scale_dtype="float16")),
    (".*/kernel", int8()),
    (".*", None),
]


@pytest.fixture(scope="module")
def quantized():
    return jax.jit(lambda p: quantize_tree(p, RULES))(params())


def planned(format, shape):
    """What `quantize` would write, as shapes."""
    return jax.eval_shape(lambda x: quantize(x, format), jnp.ones(shape))


def test_chosen_leaves_become_qtensors_and_come_back(quantized):
    before = params()
    assert [is_qtensor(q) for q in (quantized["a"]["kernel"], quantized["a"]["bias"])] == [
        True,
        False,
    ]
    assert "a/kernel/codes" in tree.paths(quantized)
    after = jax.jit(dequantize_tree)(quantized)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, before)
    np.testing.assert_array_equal(
        after["a"]["kernel"], jax.jit(dequantize)(quantized["a"]["kernel"])
    )
    np.testing.assert_array_equal(after["a"]["bias"], before["a"]["bias"])


def test_a_dry_run_from_shapes_counts_the_same_bytes(quantized):
    dry = jax.eval_shape(lambda p: quantize_tree(p, RULES), params())
    assert tree.nbytes(dry) == tree.nbytes(quantized)
    assert jax.tree.structure(dry) == jax.tree.structure(quantized)
    assert tree.nbytes(quantized["a"]["kernel"]) == 300 * 5 + 3 * 10 * 2


def test_a_qtensor_passes_through_jit_and_scan(quantized):
    q = quantized["a"]["kernel"]
    once = jax.jit(dequantize)(q)
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), q)
    _, read = jax.lax.scan(lambda c, q: (c, dequantize(q)), 0, stack)
    np.testing.assert_array_equal(read[1], once)


@pytest.mark.parametrize(
    ("format", "bits"),
    [
        (int4(group_size=128, scale_dtype="float16"), 4.125),
        (int4(group_size=128), 4.25),
        (int4(group_size=128, scale_dtype="bfloat16", symmetric=False), 4.1875),
        (int8(), 8 + 32 / 256),
        (integer(3, group_size=64, scale_dtype="float16"), 3.25),
        (integer(2, axis=None), 2 + 32 / (256 * 64)),
    ],
    ids=str,
)
def test_effective_bits_count_scales_and_zero_points(format, bits):
    q = planned(format, (256, 64))
    assert effective_bits(q) == bits
    assert 8 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(q)) == bits * 256 * 64


def test_the_report_has_a_row_for_every_leaf_and_a_true_total(quantized):
    before = params()
    rows = {row["path"]: row for row in report(before, quantized).records()}
    assert list(rows) == [*tree.paths(before), "total"]
    assert rows["a/bias"] == {
        "path": "a/bias", "format": None, "bits": 32, "bytes": 40, "sqnr_db": None
    }  # fmt: skip
    assert rows["a/kernel"]["bits"] == 8 * (1500 + 60) / 3000
    assert 15 < rows["a/kernel"]["sqnr_db"] < 25 < rows["b/kernel"]["sqnr_db"] < 50
    assert rows["total"]["bytes"] == sum(x.nbytes for x in jax.tree.leaves(quantized))


def test_sqnr_is_in_decibels():
    x = jnp.ones(10)
    assert float(sqnr(x, 0.9 * x)) == pytest.approx(20, abs=1e-3)
    assert float(sqnr(x, x)) == np.inf


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [7, 10])
def test_what_quantize_writes_passes_the_check(symmetric, n):
    check(planned(int4(group_size=128, symmetric=symmetric), (300, n)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"length": 12}, "w/codes: expected uint8.300, 6."),
        ({"scale": jnp.ones((3, 10), jnp.float16)}, "w/scale: expected float32"),
        ({"scale": jnp.ones((2, 10))}, "w/scale"),
        ({"format": int4(group_size=64)}, "w/scale"),
        ({"format": int4(group_size=128, symmetric=False)}, "w/zero_point.*found None"),
        ({"zero_point": jnp.ones((3, 10), jnp.uint8)}, "w/zero_point.*symmetric"),
        ({"codes": jnp.zeros((300, 5), jnp.int8)}, "w/codes"),
    ],
    ids=str,
)
def test_children_that_do_not_fit_the_format_are_named(change, named):
    q = planned(int4(group_size=128), (300, 10))
    with pytest.raises(ValueError, match=named):
        dequantize_tree({"w": dataclasses.replace(q, **change)})


@pytest.mark.parametrize(
    ("rules", "error", "named"),
    [
        ([(".*", int4())], TypeError, "'b/count' is int32"),
        ([("a/.*", int4(axis=-3)), (".*", None)], ValueError, "'a/kernel'.*axis -3"),
        ([(".*/weight", int4()), (".*", None)], ValueError, "'.*/weight' matches no leaf"),
    ],
    ids=str,
)
def test_rules_that_do_not_fit_name_the_leaf(rules, error, named):
    with pytest.raises(error, match=named):
        quantize_tree(params(), rules)


@pytest.mark.parametrize("value", ["int4", 4, True])
def test_a_rule_that_names_no_format_is_refused(value):
    with pytest.raises(TypeError, match=f"'a/kernel': {value!r} is not a Format"):
        chosen_formats([("a/kernel", value), (".*", None)], params())


def test_quantizing_twice_is_refused(quantized):
    with pytest.raises(TypeError, match=r"a/kernel/codes' is uint8.*codes"):
        quantize_tree(quantized, [("a/kernel/.*", int4()), (".*", None)])


def test_a_qtensor_is_a_frozen_value_with_the_array_s_shape(quantized):
    q = quantized["b"]["kernel"]
    assert (q.shape, q.dtype) == ((64, 8), "bfloat16")
    with pytest.raises(dataclasses.FrozenInstanceError):
        q.length = 4  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(jax.tree.map(lambda x: None, q), QTensor)
