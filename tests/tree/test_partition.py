"""Splitting, merging, and acting on the copies of a tree inside an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import Stored, tree


class Pair(NamedTuple):
    first: Any
    second: Any


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.tuples(children, children).map(lambda two: Pair(*two)),
        st.dictionaries(st.sampled_from(["kernel", "bias", "fc", "0"]), children, max_size=3),
    )


TREES = st.recursive(st.integers(), containers, max_leaves=12)


@given(TREES, st.data())
@settings(max_examples=60)
def test_merge_is_the_inverse_of_partition(params: Any, data: st.DataObject):
    kept_paths = set(data.draw(st.lists(st.sampled_from(tree.paths(params) or ["none"]))))
    kept, rest = tree.partition(lambda path, leaf: path in kept_paths, params)
    assert set(tree.paths(kept)) == kept_paths & set(tree.paths(params))
    assert set(tree.paths(rest)) == set(tree.paths(params)) - kept_paths
    assert tree.merge(kept, rest) == params == tree.merge(rest, kept)


def test_partition_may_look_at_leaves():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(2)}
    kept, rest = tree.partition(lambda path, leaf: leaf.ndim > 1, params)
    assert kept == {"a": params["a"], "b": None}
    assert rest == {"a": None, "b": params["b"]}


def test_the_first_tree_that_has_a_leaf_gives_it():
    trees = [{"a": None, "b": 1}, {"a": 2, "b": 3}, {"a": 4, "b": 5}]
    assert tree.merge(*trees) == {"a": 2, "b": 1}


def test_a_hole_everywhere_stays_a_hole():
    assert tree.merge({"a": None}, {"a": None}) == {"a": None}


STORED = {"fc": {"kernel": jnp.ones((24, 16)), "bias": jnp.ones(16)}, "scale": jnp.ones(())}


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.ndim(p) == 2, params)


class Expected(NamedTuple):
    """What `matched` acts on: prefixes of whole copies, single leaves, and what is reported."""

    tx: optax.GradientTransformation
    copies: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


OPTIMIZERS = {
    "sgd": Expected(optax.sgd(0.1)),
    "momentum": Expected(optax.sgd(0.1, momentum=0.9), ("0/trace/",)),
    "adam": Expected(optax.adam(0.1), ("0/mu/", "0/nu/")),
    "adam_eps0": Expected(optax.adam(0.1, eps=0.0), ("0/mu/", "0/nu/")),
    "adamw": Expected(optax.adamw(0.1), ("0/mu/", "0/nu/")),
    "adabelief": Expected(optax.adabelief(0.1), ("0/mu/", "0/nu/")),
    "lion": Expected(optax.lion(0.1), ("0/mu/",)),
    "rprop": Expected(optax.rprop(0.1), ("0/step_sizes/", "0/prev_updates/")),
    "rmsprop": Expected(
        optax.rmsprop(0.1, momentum=0.9, centered=True), ("0/mu/", "0/nu/", "2/trace/")
    ),
    "adafactor": Expected(
        optax.adafactor(0.1, momentum=0.9, min_dim_size_to_factor=16),
        ("4/ema/",),
        ("0/v/fc/bias", "0/v/scale"),
        (
            *("0/v_row/fc/bias", "0/v_row/fc/kernel", "0/v_row/scale"),
            *("0/v_col/fc/bias", "0/v_col/fc/kernel", "0/v_col/scale"),
            "0/v/fc/kernel",
        ),
    ),
    "muon": Expected(
        optax.contrib.muon(0.1),
        leaves=(
            *(f"inner_states/adam/inner_state/0/{m}/{p}"
              for m in ("mu", "nu") for p in ("fc/bias", "scale")),
            "inner_states/muon/inner_state/0/mu/fc/kernel",
        ),
        unmatched=("inner_states/muon/inner_state/0/ns_coeffs",),
    ),
    "centralize": Expected(
        optax.chain(optax.centralize(), optax.adam(0.1)), ("1/0/mu/", "1/0/nu/")
    ),
    "noisy": Expected(optax.noisy_sgd(0.1, eta=0.01, key=0)),
    "schedule_free": Expected(
        optax.contrib.schedule_free_adamw(0.1), ("base_optimizer_state/0/nu/", "z/")
    ),
    "masked": Expected(
        optax.masked(optax.adam(0.1), matrices),
        leaves=("inner_state/0/mu/fc/kernel", "inner_state/0/nu/fc/kernel"),
    ),
    "multi_steps": Expected(
        optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).gradient_transformation(),
        ("inner_opt_state/0/trace/", "acc_grads/"),
    ),
    "inject_hyperparams": Expected(
        optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9), ("inner_state/0/trace/",)
    ),
    "apply_if_finite": Expected(
        optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 3), ("inner_state/0/trace/",)
    ),
    "named_chain": Expected(
        optax.named_chain(("adam", optax.scale_by_adam())), ("adam/mu/", "adam/nu/")
    ),
}  # fmt: skip


def marked(params: Any) -> Any:
    """A recognizable map of stored-shaped trees, which nothing else may be handed to."""
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, STORED)
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, 77), params)


@pytest.mark.parametrize("expected", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_moments_are_matched_and_everything_else_is_left_alone(expected: Expected):
    with jax.numpy_dtype_promotion("standard"):  # muon's init mixes dtypes
        state = expected.tx.init(STORED)
    out = tree.matched(marked, state, STORED)
    assert jax.tree.structure(out) == jax.tree.structure(state)
    before, after = tree.leaves(state), tree.leaves(out)
    changed = {path for path in after if after[path] is not before[path]}
    copies = {prefix + path for prefix in expected.copies for path in tree.paths(STORED)}
    assert changed == copies | set(expected.leaves)
    assert all(np.all(np.asarray(after[path]) == 77) for path in changed)
    assert tuple(tree.unmatched(state, STORED)) == expected.unmatched


def test_what_a_masked_optimizer_does_not_hold_is_filled_from_stored():
    seen = []

    def spy(params: Any) -> Any:
        seen.append(params)
        return params

    stored = jax.tree.map(lambda p: 5 * p, STORED)
    state = optax.masked(optax.sgd(0.1, momentum=0.9), matrices).init(stored)
    tree.matched(spy, state, stored)
    assert len(seen) == 1
    assert np.all(seen[0]["fc"]["kernel"] == 0)
    assert np.all(seen[0]["fc"]["bias"] == 5)


def test_an_average_is_matched_whatever_its_dtype():
    average = jax.tree.map(lambda p: p.astype(jnp.bfloat16), STORED)
    out = tree.matched(marked, average, STORED)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}
    assert all(np.all(leaf == 77) for leaf in jax.tree.leaves(out))


@pytest.mark.parametrize(
    "other",
    [
        {"fc": {"kernel": jnp.ones((24, 16), jnp.int32)}},
        {"fc": {"kernel": jnp.ones((24, 16), bool)}},
        {"fc": {"kernel": jnp.ones((24, 1))}},
        {"fc": {"kernel": jnp.ones((2, 24, 16))}},
        {"gc": {"kernel": jnp.ones((24, 16))}},
    ],
    ids=["counts", "masks", "factors", "stacks", "other names"],
)
def test_no_copy_is_seen_where_shape_dtype_or_name_disagree(other: Any):
    out = tree.matched(marked, other, STORED)
    assert jax.tree.leaves(out)[0] is jax.tree.leaves(other)[0]


def test_a_module_may_be_called_like_a_moment():
    stored = {"mu": {"w": jnp.ones(3)}, "w": jnp.ones(3)}
    state = optax.adam(0.1).init(stored)

    def only_the_module(params: Any) -> Any:
        return tree.replace(params, {"mu/w": jnp.full(3, 77.0)})

    out = tree.matched(only_the_module, state, stored)[0]
    assert np.all(out.mu["mu"]["w"] == 77)
    assert np.all(out.nu["mu"]["w"] == 77)
    assert np.all(out.mu["w"] == 0)
    assert np.all(out.nu["w"] == 0)


@pytest.mark.parametrize("stored", [[jnp.ones(2), [jnp.ones(2)]], jnp.ones(2)], ids=type)
def test_a_tree_may_be_a_list_or_a_single_array(stored: Any):
    averages = jax.tree.map(jnp.copy, (stored, stored))
    structures = []

    def increased(params: Any) -> Any:
        structures.append(jax.tree.structure(params))
        return jax.tree.map(lambda leaf: leaf + 1.0, params)

    out = tree.matched(increased, averages, stored)
    assert structures == [jax.tree.structure(stored)] * 2
    assert all(np.all(leaf == 2) for leaf in jax.tree.leaves(out))


def test_extras_are_matched_beside_the_parameters():
    stored = Stored({"w": jnp.ones(3)}, {"w": jnp.ones(())})
    state = optax.sgd(0.1, momentum=0.9).init(stored)
    out = tree.matched(lambda t: Stored(t.params, {"w": jnp.full((), 77.0)}), state, stored)
    assert out[0].trace.extra["w"] == 77
    assert np.all(out[0].trace.params["w"] == 0)


def test_matching_runs_under_jit():
    state = optax.adam(0.1).init(STORED)
    out = jax.jit(lambda s, p: tree.matched(marked, s, p))(state, STORED)
    assert np.all(out[0].nu["fc"]["kernel"] == 77)
    assert out[0].count == 0
