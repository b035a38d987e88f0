"""Pruning without a loop: one line, any tree, a truthful report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning, tree


@pytest.fixture
def lenet(key):
    shapes = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
    return {
        name: {"kernel": jax.random.normal(key, shape), "bias": jnp.ones(shape[1])}
        for name, shape in shapes.items()
    }


HAN = [("fc1/kernel", 0.08), ("fc2/kernel", 0.09), ("fc3/kernel", 0.26), (".*", None)]


def test_one_line_keeps_exactly_the_largest_of_every_matrix(key):
    params = {"kernel": jax.random.normal(key, (30, 20)), "bias": jnp.ones(20)}
    pruned = pruning.prune(params, 0.1)
    assert tree.nonzero(pruned) == {"bias": 20, "kernel": 60}
    before, after = np.asarray(params["kernel"]), np.asarray(pruned["kernel"])
    assert np.abs(before)[after == 0].max() <= np.abs(before)[after != 0].min()
    np.testing.assert_array_equal(after[after != 0], before[after != 0])


def test_hans_table_layer_by_layer(lenet):
    table = pruning.report(pruning.prune(lenet, 0.08, HAN)).records()
    rows = {row["path"]: (row["weights"], row["kept"]) for row in table}
    assert rows["fc1/kernel"] == (235_200, 18_816)
    assert rows["fc2/kernel"] == (30_000, 2_700)
    assert rows["fc3/kernel"] == (1_000, 260)
    assert rows["all prunable"] == (266_200, 21_776)
    assert rows["the model"] == (266_610, 21_776 + 410)


def test_the_report_tells_density_of_the_prunable_from_that_of_the_model():
    params = {"a": jnp.array([[1.0, 0.0], [0.0, 0.0]]), "b": jnp.ones(4)}
    records = pruning.report(params).records()
    assert [(row["path"], row["density"], row["prunable"]) for row in records] == [
        ("a", 0.25, True),
        ("b", 1.0, False),
        ("all prunable", 0.25, True),
        ("the model", 0.625, None),
    ]
    assert "all prunable" in str(pruning.report(params))


def test_global_pruning_prunes_the_smaller_layer_harder(key):
    a, b = jax.random.normal(key, (2, 100, 100))
    kept = tree.nonzero(pruning.prune({"a": 10 * a, "b": b}, 0.5, allocation=pruning.globally))
    flat = np.abs(np.concatenate([10 * np.asarray(a).ravel(), np.asarray(b).ravel()]))
    chosen = np.argsort(-flat, kind="stable")[:10_000]
    assert kept == {"a": int((chosen < 10_000).sum()), "b": int((chosen >= 10_000).sum())}


def test_masks_of_reads_the_zeros_of_the_matrices():
    params = {"kernel": jnp.array([[0.0, 2.0], [-0.0, 1e-30]]), "bias": jnp.zeros(2)}
    (mask,) = pruning.masks_of(params).values()
    np.testing.assert_array_equal(mask, [[False, True], [False, True]])


def test_prune_runs_under_jit_with_a_traced_density():
    params = {"kernel": jax.random.normal(jax.random.key(0), (8, 8))}
    traced = jax.jit(pruning.prune)(params, jnp.float32(0.25))
    np.testing.assert_array_equal(traced["kernel"], pruning.prune(params, 0.25)["kernel"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype(dtype):
    kernel = jnp.arange(16, dtype=dtype).reshape(4, 4)
    pruned = pruning.prune({"kernel": kernel}, 0.25)["kernel"]
    assert pruned.dtype == dtype
    np.testing.assert_array_equal(pruned[3], kernel[3])
    assert jnp.count_nonzero(pruned) == 4


def test_nan_a_bad_density_and_nothing_to_prune_are_refused():
    with pytest.raises(ValueError, match="leaf 'kernel' holds NaN"):
        pruning.prune({"kernel": jnp.full((2, 2), jnp.nan)}, 0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.2"):
        pruning.prune({"kernel": jnp.ones((2, 2))}, 1.2)
    with pytest.raises(ValueError, match=r"select none of the leaves \['bias'\]"):
        pruning.prune({"bias": jnp.ones(3)}, 0.5)
