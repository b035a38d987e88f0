"""Pruning without a loop: one line, any tree, a truthful report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning, tree
from wlab.pruning import Neighbours, PerLeaf, PerOutput, erdos_renyi, scores


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


def test_a_score_may_be_any_function_of_the_tree(lenet):
    def last(params):  # a tree like the parameters; larger is kept
        return jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), params)

    pruned = pruning.prune(lenet, 0.25, score=last)
    np.testing.assert_array_equal(np.flatnonzero(pruned["fc3"]["kernel"]), np.arange(750, 1000))
    np.testing.assert_array_equal(pruned["fc3"]["bias"], lenet["fc3"]["bias"])


@pytest.mark.parametrize(
    "allocation", [pruning.uniform, pruning.globally, pruning.erk, erdos_renyi]
)
def test_rounds_end_on_the_count_of_one(lenet, allocation):
    once = pruning.prune(lenet, 0.08, allocation=allocation)
    for rounds in (3, 7):  # magnitudes do not change on the way, so the weights are the same too
        pruned = pruning.prune(lenet, 0.08, allocation=allocation, rounds=rounds)
        jax.tree.map(np.testing.assert_array_equal, pruned, once)


def test_rounding_on_the_way_does_not_cost_a_leaf_a_weight(key):
    shapes = {"a": (2, 3), "b": (3, 4), "c": (2, 5)}
    before, end = ([k for _, k in pruning.erk(shapes, d)] for d in (0.7**0.8, 0.7))
    assert (before, end) == ([5, 8, 8], [6, 7, 7])
    params = {path: jax.random.normal(key, shape) for path, shape in shapes.items()}
    pruned = pruning.prune(params, 0.7, allocation=pruning.erk, rounds=5)
    assert list(tree.nonzero(pruned).values()) == end


def test_what_is_zero_already_goes_first(key):
    params = {"w": jax.random.normal(key, (10, 10))}
    half = pruning.prune(params, 0.5)
    less = pruning.prune(half, 0.2, score=scores.random(key))["w"]
    assert np.count_nonzero(less) == 20
    np.testing.assert_array_equal(less[less != 0], half["w"][less != 0])


def test_neighbours_go_one_by_one(key):
    seen = []

    def score(params):
        seen.append(np.count_nonzero(params["w"]))
        return {"w": jnp.abs(params["w"])}

    params = {"w": jax.random.normal(key, (4, 100))}
    pruning.prune(params, 1, [("w", Neighbours(keep=1, of=4))], score=score, rounds=4)
    assert seen == [400, 300, 200, 200]  # ⌈2.83⌉, 2 and ⌈1.41⌉ of four


def test_in_rounds_densities_fall_by_a_factor_and_scores_are_of_what_is_left(key):
    params, seen = {"w": jax.random.normal(key, (40, 25))}, []

    def score(params):  # what is dead would be first, if it could return
        seen.append(np.asarray(params["w"]))
        return {"w": jnp.where(params["w"] == 0, 100, -jnp.abs(params["w"]))}

    pruned = pruning.prune(params, 0.064, score=score, rounds=3)["w"]
    assert [np.count_nonzero(w) for w in [*seen, pruned]] == [1000, 400, 160, 64]
    for before, after in zip(seen, [*seen[1:], np.asarray(pruned)], strict=True):
        assert (after[before == 0] == 0).all()
    kept = np.sort(np.abs(np.asarray(params["w"])), axis=None)[:64]
    np.testing.assert_array_equal(np.sort(np.abs(pruned[pruned != 0])), kept)


def test_rounds_hold_for_densities_and_patterns_of_rules(lenet):
    rules = [
        ("fc1/kernel", Neighbours(keep=1, of=4)),
        ("fc2/kernel", PerOutput(0.1)),
        ("fc3/kernel", 0.26),
        (".*", None),
    ]
    for rounds in (1, 4):
        pruned = pruning.prune(lenet, 1, rules, rounds=rounds)
        fc1, fc2 = (np.asarray(pruned[name]["kernel"]) != 0 for name in ("fc1", "fc2"))
        assert (fc1.reshape(196, 4, 300).sum(1) == 1).all()
        assert (fc2.sum(0) == 30).all()
        assert np.count_nonzero(pruned["fc3"]["kernel"]) == 260
        weights = np.abs(np.asarray(lenet["fc1"]["kernel"])).reshape(196, 4, 300)
        np.testing.assert_array_equal(weights.argmax(1), fc1.reshape(196, 4, 300).argmax(1))
    assert {p: int(m.sum()) for p, m in pruning.masks_of(pruned, rules).items()} == {
        "fc1/kernel": 58_800,
        "fc2/kernel": 3_000,
        "fc3/kernel": 260,
    }
    rows = {row["path"]: row for row in pruning.report(pruned, rules).records()}
    assert rows["all prunable"]["kept"] == 62_060


def test_a_pattern_of_a_stack_is_that_of_each_matrix(key):
    stack = jax.random.normal(key, (3, 8, 5))
    rules = [("w", PerLeaf(0.25))]
    pruned = pruning.prune({"w": stack}, 1, rules)["w"]
    for matrix, found in zip(stack, pruned, strict=True):
        np.testing.assert_array_equal(found, pruning.prune({"w": matrix}, 0.25)["w"])


def test_rounds_and_patterns_run_under_jit():
    params = {"a": jax.random.normal(jax.random.key(0), (8, 8)), "b": jnp.ones((4, 3))}
    rules = [("a", True), ("b", Neighbours(2, 4))]

    def prune(params, density):
        return pruning.prune(params, density, rules, rounds=2)

    traced, eager = jax.jit(prune)(params, jnp.float32(0.25)), prune(params, 0.25)
    jax.tree.map(np.testing.assert_array_equal, traced, eager)


def test_rules_that_reach_too_far_are_told(lenet):
    params = lenet | {"embed": {"embedding": jnp.ones((4, 3))}}
    with pytest.warns(UserWarning, match="also select embed/embedding, fc1/bias, fc2/bias, fc3/"):
        pruned = pruning.prune(params, 0.5, [(".*", True)])
    rows = {row["path"]: row for row in pruning.report(pruned, [(".*", True)]).records()}
    assert (rows["fc1/bias"]["kept"], rows["fc1/bias"]["prunable"]) == (150, True)
    pruning.prune(params, 0.5)  # without rules nobody is told: warnings are errors here


def test_what_does_not_fit_is_refused_by_name(lenet):
    def refused(said, density=0.5, rules=None, **options):
        with pytest.raises(ValueError, match=said):
            pruning.prune(lenet, density, rules, **options)

    refused("rounds is a number of prunings, at least 1; got 0", rounds=0)
    refused(
        r"leaf 'fc3/kernel' of shape \(100, 10\): .*groups of 8 do not divide",
        rules=[("fc3/kernel", Neighbours(2, 8)), (".*", None)],
    )
    refused(
        "score has nothing for leaf 'fc2/kernel'",
        score=lambda p: {"fc1/kernel": jnp.ones((784, 300))},
    )
    refused(
        r"score of leaf 'fc1/kernel' has shape \(300,\)",
        score=lambda p: {"fc1/kernel": jnp.ones(300)},
    )
    refused(
        "score of leaf 'fc1/kernel' holds NaN", score=lambda p: jax.tree.map(lambda x: x / 0 * 0, p)
    )
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"'fc1/bias' .* is no matrix"):
        pruning.prune(lenet, 0.5, [("fc1/bias", PerOutput(0.5)), (".*", None)])


def test_nan_a_bad_density_and_nothing_to_prune_are_refused():
    with pytest.raises(ValueError, match="leaf 'kernel' holds NaN"):
        pruning.prune({"kernel": jnp.full((2, 2), jnp.nan)}, 0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.2"):
        pruning.prune({"kernel": jnp.ones((2, 2))}, 1.2)
    with pytest.raises(ValueError, match=r"select none of the leaves \['bias'\]"):
        pruning.prune({"bias": jnp.ones(3)}, 0.5)
