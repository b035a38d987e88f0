"""Which units stay, and what a network without the others costs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import graph
from wlab.pruning import best_units, unit_scores, units_within

X = jax.random.normal(jax.random.key(0), (3, 8))


def network(p, x):
    """Two layers, of which the second has two heads of five."""
    x = jnp.tanh(x @ p["a"] + p["bias"][None])
    heads = (x @ p["b"]).reshape(len(x), 2, 5)
    return jnp.sum(heads, 1) @ p["c"]


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(1), 4)
    shapes = {"a": (8, 12), "b": (12, 10), "bias": (12,), "c": (5, 4)}
    return {n: jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=True)}


@pytest.fixture
def groups(params):
    return graph.groups(graph.read(network, params, X))


def squares(params):
    return jax.tree.map(jnp.square, params)


def test_a_unit_scores_all_that_it_is_made_of(params, groups):
    found = unit_scores(groups, squares(params))
    a, b, bias, c = (np.asarray(params[name], np.float64) ** 2 for name in ("a", "b", "bias", "c"))
    np.testing.assert_allclose(found["a:1"], a.sum(0) + bias + b.sum(1))
    np.testing.assert_allclose(found["b:1"], b.reshape(12, 2, 5).sum((0, 2)))  # heads
    np.testing.assert_allclose(found["b:1/2"], b.reshape(12, 2, 5).sum((0, 1)) + c.sum(1))


def test_scores_that_are_not_finite_are_refused(params, groups):
    with pytest.raises(ValueError, match="a score of 'bias' is not finite"):
        unit_scores(groups, params | {"bias": jnp.full(12, jnp.nan)})


def test_the_largest_stay_as_many_as_are_asked_for(params, groups):
    scores = unit_scores(groups, squares(params))
    rules = [("a:1", True), ("b:1/2", 0.6), (".*", None)]
    found = best_units(groups, scores, 0.25, rules)
    assert {name: int(kept.sum()) for name, kept in found.items()} == {"a:1": 3, "b:1/2": 3}
    assert scores["a:1"][found["a:1"]].min() > scores["a:1"][~found["a:1"]].max()


def test_without_rules_inputs_are_left_whole(params, groups):
    found = best_units(groups, unit_scores(groups, squares(params)), 0.5)
    assert set(found) == {name for name, group in groups.groups.items() if group.made}
    assert "a:0" in groups.groups and "a:0" not in found


@pytest.mark.parametrize(
    ("density", "round_to", "stay"),
    [(0.5, 8, 8), (0.2, 8, 8), (1.0, 8, 12), (0.5, 4, 8), (0.3, 4, 4), (0.0, 1, 1), (0.4, 16, 12)],
)
def test_whole_vectors_stay(params, groups, density: float, round_to: int, stay: int):
    scores = unit_scores(groups, squares(params))
    found = best_units(groups, scores, density, [("a:1", True), (".*", None)], round_to=round_to)
    assert found["a:1"].sum() == stay


def test_a_budget_of_multiply_adds_is_met_by_the_largest_network(params, groups):
    scores = unit_scores(groups, squares(params))
    choose = partial(best_units, groups, scores, rules=[("a:1", True), (".*", None)])

    def cost(keep: graph.Keep) -> float:
        small = graph.shrink(groups, keep)
        return graph.multiply_adds(graph.read(small.fn, small.params(params), X))

    one_unit = 3 * (8 + 10)  # of three rows
    rest = 3 * 5 * 4
    keep = units_within(rest + 7.5 * one_unit, choose, cost)
    assert keep["a:1"].sum() == 7 and cost(keep) == rest + 7 * one_unit
    assert units_within(1e9, choose, cost)["a:1"].all()
    with pytest.raises(ValueError, match="the least network costs"):
        units_within(rest, choose, cost)


def test_bad_wishes_are_refused(params, groups):
    scores = unit_scores(groups, squares(params))
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.5"):
        best_units(groups, scores, 1.5)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        best_units(groups, scores, 0.5, round_to=0)
    with pytest.raises(ValueError, match="select none of the groups"):
        best_units(groups, scores, 0.5, [(".*", None)])
    with pytest.raises(ValueError, match="z:1"):
        best_units(groups, scores, 0.5, [("z:1", True), (".*", None)])
