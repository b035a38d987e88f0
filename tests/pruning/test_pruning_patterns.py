"""Patterns against NumPy's sort: exact counts, ties by index, whole matrices and stacks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.pruning import Neighbours, PerLeaf, PerOutput, chosen, magnitude, nm_mask
from wlab.pruning.patterns import patterned


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """The k largest of the last axis, ties to the lower index."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order[..., :k], True, axis=-1)
    return mask


@partial(jax.jit, static_argnums=2)
def masked_groups(scores, keep, of):
    """Compiled once for all numbers of places."""
    return nm_mask(scores, keep=keep, of=of)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.data())
def test_every_group_keeps_the_same_number_and_the_largest(of, data):
    keep = data.draw(st.integers(0, of))
    seed = data.draw(st.integers(0, 99))
    scores = np.random.default_rng(seed).integers(0, 4, (3, 5 * of)).astype(np.float32)
    mask = np.asarray(masked_groups(scores, keep, of))
    expected = largest(scores.reshape(3, 5, of), keep).reshape(scores.shape)
    np.testing.assert_array_equal(mask, expected)


def test_one_of_four_is_not_three_of_four():
    """Others name what is zeroed: here `keep` is what is kept."""
    scores = jnp.arange(8.0)
    assert nm_mask(scores, keep=1, of=4).tolist() == [False] * 3 + [True] + [False] * 3 + [True]


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_any_axis(axis):
    scores = np.random.default_rng(0).normal(size=(4, 8, 12)).astype(np.float32)
    found = np.moveaxis(np.asarray(nm_mask(jnp.asarray(scores), keep=2, of=4, axis=axis)), axis, -1)
    assert (found.reshape(-1, 4).sum(1) == 2).all()
    moved = np.moveaxis(scores, axis, -1)
    np.testing.assert_array_equal(found.reshape(-1, 4), largest(moved.reshape(-1, 4), 2))


def test_nan_stays_and_a_remainder_is_named():
    scores = jnp.array([1.0, jnp.nan, 2.0, 3.0, 5.0, 4.0])
    assert nm_mask(scores, keep=2, of=3).tolist() == [False, True, True, False, True, True]
    with pytest.raises(ValueError, match="groups of 4 do not divide an axis of 6"):
        nm_mask(scores, keep=2, of=4)
    dense = nm_mask(scores, keep=1, of=4, remainder="dense")
    assert dense.tolist() == [False, True, False, False, True, True]
    share = nm_mask(scores, keep=1, of=4, remainder="share")
    assert share.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize(("keep", "of"), [(5, 4), (-1, 4), (1, 0)])
def test_impossible_groups_are_refused(keep, of):
    with pytest.raises(ValueError, match="N:M keeps 0 to"):
        nm_mask(jnp.ones(8), keep=keep, of=of)
    with pytest.raises(ValueError, match="N:M keeps 0 to"):
        Neighbours(keep=keep, of=of)


@pytest.mark.parametrize("density", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(10, 6), (3, 10, 6), (2, 3, 10, 6)])
def test_patterns_of_matrices_keep_exactly_their_share(density, shape):
    scores = np.random.default_rng(1).integers(0, 9, shape).astype(np.float32)
    flat = scores.reshape(-1, 60)
    found = np.asarray(jax.jit(partial(chosen, PerLeaf(density)))(jnp.asarray(scores))).reshape(
        -1, 60
    )
    np.testing.assert_array_equal(found, largest(flat, round(60 * density)))
    found = np.asarray(jax.jit(partial(chosen, PerOutput(density)))(jnp.asarray(scores)))
    columns = largest(np.swapaxes(scores, -1, -2), int(10 * density + 0.5))
    np.testing.assert_array_equal(found, np.swapaxes(columns, -1, -2))


def test_neighbours_stand_along_the_inputs():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    mask = np.asarray(chosen(Neighbours(keep=2, of=4), scores))
    assert (mask.reshape(2, 4, 3).sum(1) == 2).all()


def test_a_mesh_gives_the_same_groups():
    scores = jax.random.normal(jax.random.key(0), (16, 32))
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    there = jax.device_put(scores, jax.NamedSharding(mesh, jax.P("a", "b")))
    for axis in (0, 1):
        mask = jax.jit(lambda s, axis=axis: nm_mask(s, keep=2, of=4, axis=axis))
        np.testing.assert_array_equal(mask(there), mask(scores))


def test_neighbours_stand_along_the_axis_that_is_asked_for():
    """Outputs first, as in equinox: the mask of the transposed leaf, transposed."""
    scores = jax.random.normal(jax.random.key(0), (3, 6, 8))
    found = chosen(Neighbours(1, 4, axis=-1), scores)
    wanted = chosen(Neighbours(1, 4), jnp.swapaxes(scores, -1, -2))
    np.testing.assert_array_equal(found, jnp.swapaxes(wanted, -1, -2))
    kernel = jax.random.normal(jax.random.key(1), (5, 8, 3, 3))  # outputs, inputs, height, width
    found = chosen(Neighbours(2, 4, axis=1), kernel)
    wanted = chosen(Neighbours(2, 4), kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found, wanted.transpose(3, 2, 0, 1))


def test_neighbours_along_an_axis_are_trained_and_misfits_named():
    params = {"weight": jax.random.normal(jax.random.key(0), (6, 8))}
    transform = magnitude(1.0, [("weight", Neighbours(1, 4, axis=-1))], every=1)
    stored, state = transform.init(params, jax.random.key(0))
    state = transform.update(stored, None, state, 0)
    left = transform.project(stored, state)["weight"].reshape(6, 2, 4)
    np.testing.assert_array_equal(jnp.count_nonzero(left, axis=-1), 1)
    np.testing.assert_array_equal(
        jnp.abs(left).max(-1), jnp.abs(params["weight"]).reshape(6, 2, 4).max(-1)
    )
    for axis, message in ((-2, "do not divide the 6 entries of its axis -2"), (2, "no axis 2")):
        with pytest.raises(ValueError, match=f"'weight'.*{message}"):
            magnitude(1.0, [("weight", Neighbours(1, 4, axis=axis))]).init(params, None)


def test_a_density_stands_for_a_pattern_of_it():
    rules = [("a", 0.5), ("b", 1), ("c", None), ("d", False), ("e", Neighbours(2, 4))]
    found = patterned(rules, PerOutput, purpose="here")
    assert [x for _, x in found] == [PerOutput(0.5), PerOutput(1), None, None, Neighbours(2, 4)]
    for given_, error, message in (
        (True, TypeError, "here: rule 'a' says True; it has to be a pattern"),
        ("x", TypeError, "'a' says 'x'"),
        (1.5, ValueError, "got 1.5"),
        (Neighbours(2, 4, axis=-1), ValueError, "'a' has neighbours along axis -1"),
    ):
        with pytest.raises(error, match=message):
            patterned([("a", given_)], PerOutput, purpose="here")
