"""Sensitivity against pruning by hand, and densities within a budget against all there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits_network import learnt, loss

from wlab import pruning, tree
from wlab.pruning import by_sensitivity, scores, sensitivity

DENSITIES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def table(curves):
    rows = [(path, d, value) for path, points in curves.items() for d, value in points]
    return tree.Table(("path", "density", "value"), tuple(rows))


def test_it_is_a_loop_over_leaves_and_densities():
    params = {
        "a": jax.random.normal(jax.random.key(0), (7, 5)),
        "b": jnp.ones(4),
        "n": jnp.int32(3),
    }
    wanted = {"a": jax.random.normal(jax.random.key(1), (7, 5)), "b": jnp.zeros(4)}

    def evaluate(params):
        return sum(jnp.sum((params[name] - leaf) ** 2) for name, leaf in wanted.items())

    rules = [("a", True), ("b", True), ("n", None)]
    found = sensitivity(evaluate, params, [0.2, 0.5, 1.0], rules)
    assert found.columns == ("path", "density", "value")
    assert [row[:2] for row in found.rows] == [(p, d) for p in "ab" for d in (0.2, 0.5, 1.0)]
    for path, density, value in found.rows:
        leaf = np.asarray(params[path]).ravel()
        gone = np.argsort(-np.abs(leaf), kind="stable")[pruning.kept(leaf.size, density) :]
        pruned = np.where(np.isin(np.arange(leaf.size), gone), 0, leaf).reshape(params[path].shape)
        np.testing.assert_allclose(value, evaluate(params | {path: jnp.asarray(pruned)}), rtol=1e-5)


def test_it_is_compiled_once_a_leaf_and_ranks_by_any_score(key):
    params, traced = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones((2, 2))}, []

    def evaluate(params):
        traced.append(None)
        return jnp.sum(params["a"])

    found = sensitivity(
        evaluate, params, [0.25, 1.0], score=lambda p: jax.tree.map(jnp.negative, p)
    )
    assert [value for *_, value in found.rows] == [0 + 1 + 2, 66, 66, 66]
    assert len(traced) == 2


def test_what_it_cannot_measure_is_refused():
    params = {"a": jnp.ones((2, 2))}
    for densities, evaluate, said in [
        ([], jnp.sum, "no density"),
        ([1.5], jnp.sum, "got 1.5"),
        ([0.5], lambda p: p["a"][0], r"gives shape \(2,\), not a scalar"),
    ]:
        with pytest.raises(ValueError, match=said):
            sensitivity(evaluate, params, densities)


CURVES = {
    "a": [(0.1, 9.0), (0.3, 3.0), (0.5, 1.0), (1.0, 0.5)],
    "b": [(0.1, 0.8), (0.3, 0.5), (0.5, 0.3), (1.0, 0.25)],
    "c/0": [(0.1, 4.0), (0.3, 2.4), (0.5, 1.0), (1.0, 0.0)],
}
COSTS = {"a": 100, "b": 400, "c/0": 50}


def measured(curves, densities):
    """The loss there, on straight lines, and the cost."""
    lost = sum(np.interp(densities[p], *zip(*points, strict=True)) for p, points in curves.items())
    return lost, sum(COSTS[path] * d for path, d in densities.items())


def all_within(curves, budget):
    """The least loss of all combinations of what was measured."""
    combinations = itertools.product(*(points for points in curves.values()))
    return min(
        sum(value for _, value in combination)
        for combination in combinations
        if sum(COSTS[p] * d for p, (d, _) in zip(curves, combination, strict=True)) <= budget + 1e-9
    )


@pytest.mark.parametrize("budget", [55, 80, 120.5, 165, 200, 300, 400, 500, 550, 1000])
def test_no_combination_within_the_budget_loses_less(budget):
    found = dict(by_sensitivity(table(CURVES), COSTS, budget)[:-1])
    lost, cost = measured(CURVES, found)
    np.testing.assert_allclose(cost, min(budget, 550), rtol=1e-12)
    assert lost <= all_within(CURVES, budget) + 1e-9
    on_grid = [d in dict(CURVES[p]) for p, d in found.items()]
    assert sum(on_grid) >= 2  # one leaf is between two densities, at most


@pytest.mark.parametrize("budget", [550, 350, 270, 190, 140, 115, 95, 85, 75, 55])
def test_where_a_leaf_has_come_to_what_was_measured_it_is_the_best_of_all(budget):
    # By hand: b by 200, 80, 80, a by 50, c by 25, a by 20, c by 10, 10 and a by 20.
    found = dict(by_sensitivity(table(CURVES), COSTS, budget)[:-1])
    lost, cost = measured(CURVES, found)
    np.testing.assert_allclose([lost, cost], [all_within(CURVES, budget), budget], rtol=1e-9)


def test_bumps_are_bridged_and_what_helps_is_free():
    curves = {"a": [(0.1, 5.0), (0.2, 4.9), (0.6, 1.0), (0.8, 0.5), (1.0, 0.7)]}
    assert by_sensitivity(table(curves), {"a": 10}, 10) == [("a", 0.8), (".*", None)]
    (_, found), _ = by_sensitivity(table(curves), {"a": 10}, 2)
    np.testing.assert_allclose(found, 0.2)
    (_, found), _ = by_sensitivity(table({"a": [(0.1, 1.0), (0.5, 9.0), (1.0, 2.0)]}), {"a": 10}, 5)
    assert found == 0.1  # it loses least there


def test_a_budget_that_rounding_puts_below_the_smallest_is_met():
    curves = {path: [(0.1, 1.0), (1.0, 0.0)] for path in "abc"}
    costs = {"a": 1001, "b": 2003, "c": 77}
    budget = sum(0.1 * cost for cost in costs.values()) * (1 - 1e-15)
    assert budget < sum(0.1 * cost for cost in costs.values())
    found = dict(by_sensitivity(table(curves), costs, budget)[:-1])
    assert found == pytest.approx(dict.fromkeys("abc", 0.1))


def test_a_budget_of_other_units_moves_the_densities():
    by_weights = dict(by_sensitivity(table(CURVES), COSTS, 200)[:-1])
    by_flops = dict(by_sensitivity(table(CURVES), COSTS | {"b": 4}, 60)[:-1])
    assert by_flops["b"] > by_weights["b"]


@pytest.mark.parametrize(
    ("curves", "costs", "budget", "said"),
    [
        (CURVES, COSTS, 54, "smallest densities that were measured cost 55"),
        (CURVES, {"a": 1}, 54, "'b' has no cost above zero"),
        ({"a": [(0.5, float("nan"))]}, {"a": 1}, 1, "'a' has nan at density 0.5"),
    ],
)
def test_what_cannot_be_met_is_refused(curves, costs, budget, said):
    with pytest.raises(ValueError, match=said):
        by_sensitivity(table(curves), costs, budget)


@pytest.mark.long
def test_on_digits_its_densities_lose_less_than_one_for_all():
    params, train, test = learnt()
    kernels = {p: leaf.size for p, leaf in tree.leaves(params).items() if p.endswith("kernel")}
    score = scores.fisher(loss, [(train[0][:300], train[1][:300])])
    curves = sensitivity(lambda p: loss(p, *train), params, DENSITIES, score=score)
    dense = float(loss(params, *train))
    whole = [value for _, density, value in curves.rows if density == 1]
    np.testing.assert_allclose(whole, dense, rtol=1e-5)
    rules = by_sensitivity(curves, kernels, 0.2 * sum(kernels.values()))
    by_rules, alike = (
        pruning.prune(params, 1, rules, score=score),
        pruning.prune(params, 0.2, score=score),
    )
    kept = [sum(tree.nonzero(p)[path] for path in kernels) for p in (by_rules, alike)]
    assert abs(kept[0] - kept[1]) <= 3
    assert loss(by_rules, *test) < 0.8 * loss(alike, *test)
