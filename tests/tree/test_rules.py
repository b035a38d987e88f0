"""Rules: the first full match wins, and nothing is left out by accident."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlab import Stored, tree

PARAMS = {
    "block_0": {"attn": {"kernel": 1.0, "bias": 1.0}, "norm": {"scale": 1.0}},
    "head": {"kernel": 1.0},
}


def test_the_first_full_match_wins():
    rules = [("block_0/attn/kernel", 1), (".*kernel", 2), (".*", 3)]
    assert tree.resolve(rules, PARAMS) == {
        "block_0/attn/bias": 3,
        "block_0/attn/kernel": 1,
        "block_0/norm/scale": 3,
        "head/kernel": 2,
    }


def test_a_part_of_a_path_is_no_match():
    with pytest.raises(ValueError, match="no rule matches leaf"):
        tree.resolve([("kernel", 1)], {"fc": {"kernel": 1.0}})


def test_shapes_and_values_of_any_kind_will_do():
    shapes = jax.eval_shape(lambda: {"w": jnp.ones((2, 3))})
    assert tree.resolve([("w", None)], shapes) == {"w": None}
    assert tree.resolve([("w", jnp.tanh)], shapes) == {"w": jnp.tanh}


def test_a_leaf_without_a_rule_is_named_with_the_rules_tried():
    message = (
        "decay: no rule matches leaf 'block_0/norm/scale'; rules tried: "
        "['.*kernel', '.*bias']. Add a final (\".*\", value) for the leaves you do not name."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tree.resolve([(".*kernel", 0.1), (".*bias", 0.0)], PARAMS, purpose="decay")


def test_a_dead_rule_is_named_with_the_leaves_there_are():
    message = "rule '.*kernle' matches no leaf: the leaves are ['block_0/attn/bias', "
    with pytest.raises(ValueError, match=re.escape(message)):
        tree.resolve([(".*kernle", 1), (".*", 2)], PARAMS)


def test_a_shadowed_rule_is_told_to_move_up():
    message = "rule 'head/kernel' matches no leaf: its leaves (such as 'head/kernel') are taken by"
    with pytest.raises(ValueError, match=re.escape(message)):
        tree.resolve([(".*kernel", 1), ("head/kernel", 2), (".*", 3)], PARAMS)


def test_a_long_list_of_leaves_is_cut():
    with pytest.raises(ValueError, match=r"'7'\] …; mend or remove it"):
        tree.resolve([("x", 1), (".*", 2)], [0.0] * 9)


def test_only_the_final_catch_all_may_match_nothing():
    everything = [(".*kernel|.*bias|.*scale", 1)]
    assert set(tree.resolve([*everything, (".*", None)], PARAMS).values()) == {1}
    with pytest.raises(ValueError, match=r"rule '\.\*' matches no leaf"):
        tree.resolve([*everything, (".*", 2), (".*", 3)], PARAMS)
    with pytest.raises(ValueError, match=r"rule '\.\+' matches no leaf"):
        tree.resolve([*everything, (".+", 2)], PARAMS)


def test_a_bad_expression_is_named():
    with pytest.raises(ValueError, match=r"prune: '\(' is not a regular expression: missing"):
        tree.resolve([("(", True)], PARAMS, purpose="prune")


def test_a_tree_without_leaves_needs_no_rules():
    assert tree.resolve([], {}) == {}
    assert tree.resolve([(".*", 1)], {}) == {}


def test_extras_have_no_rules():
    stored = Stored({"w": 1.0}, {"w": 2.0})
    assert tree.resolve([("w", 1)], stored) == {"w": 1}


def test_paths_may_come_from_a_file():
    assert tree.match([("a/.*", 1), (".*", 2)], ["a/x", "b"]) == {"a/x": 1, "b": 2}


def test_selected_are_those_with_a_true_value_in_tree_order():
    rules: Any = [(".*bias", None), (".*scale", False), (".*", True)]
    assert tree.selected(rules, PARAMS) == ["block_0/attn/kernel", "head/kernel"]


NAMES = st.lists(st.sampled_from(["a", "b", "kernel", "bias"]), min_size=1, max_size=3)


@given(st.sets(NAMES.map("/".join), min_size=1), st.lists(st.sampled_from("ab"), max_size=3))
def test_every_leaf_has_the_value_of_the_first_rule_that_fits(paths: set[str], starts: list[str]):
    rules = [(f"{start}.*", i) for i, start in enumerate(starts)] + [(".*", -1)]
    expected = {
        path: next((i for i, start in enumerate(starts) if path.startswith(start)), -1)
        for path in paths
    }
    if set(range(len(starts))) <= set(expected.values()):
        assert tree.match(rules, sorted(paths)) == expected
    else:
        with pytest.raises(ValueError, match="matches no leaf"):
            tree.match(rules, sorted(paths))


@pytest.mark.parametrize(
    "rules", [{".*": 1}, (".*", 1), ".*", [(".*", 1, 2)], [".*", "x*"], [(1, ".*")], [".*"], 3]
)
def test_what_is_no_list_of_pairs_is_refused(rules: Any):
    with pytest.raises(
        TypeError, match=r"decay: rules are a list of \(regex, value\) in the order"
    ):
        tree.refuse_no_pairs(rules, "decay")


def test_pairs_may_be_lists():
    tree.refuse_no_pairs((["w", 3],), "decay")
