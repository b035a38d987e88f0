"""The gradient of a tied leaf, split by its users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.tree import leaves
from wlab.tying import Tie, role_gradients, role_shares, tie_leaves, untie_leaves

HEAD = [Tie("head", "embed", transpose=True, scale=0.5)]


def language_model(params, ids):
    logits = jnp.tanh(params["embed"][ids[0]]) @ params["head"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[1][:, None], axis=1).mean()


def case():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(7, 4)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 7, (2, 9)))
    seen = untie_leaves({"embed": table, "head": None}, HEAD)
    return table, ids, jax.jit(jax.grad(language_model))(seen, ids)


def test_each_part_is_the_gradient_with_the_other_role_held_still():
    table, ids, grads = case()
    parts = role_gradients(grads, HEAD)["embed"]

    def split(as_input, as_output):
        return language_model({"embed": as_input, "head": 0.5 * as_output.T}, ids)

    as_input, as_output = jax.jit(jax.grad(split, argnums=(0, 1)))(table, table)
    assert list(parts) == ["embed", "head"]
    np.testing.assert_allclose(parts["embed"], as_input, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(parts["head"], as_output, rtol=1e-5, atol=1e-7)


def test_the_parts_add_up_to_the_gradient_of_the_stored_leaf_exactly():
    table, _, grads = case()
    (whole,) = jax.vjp(lambda s: untie_leaves(s, HEAD), {"embed": table, "head": None})[1](grads)
    parts = role_gradients(grads, HEAD)["embed"]
    np.testing.assert_array_equal(parts["embed"] + parts["head"], whole["embed"])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(4)))
def test_parts_of_chained_and_permuted_ties_add_up(seed, order):
    """Integers and powers of two: every order of summation gives the same bits."""
    rng = np.random.default_rng(seed)
    ties = [
        Tie("b", "a", transpose=True, scale=2.0),
        Tie("c", "b", transpose=(1, 0, 2), scale=0.5),
        Tie("d", "c", scale=-1.0),
        Tie("f", "e", transpose=(2, 0, 1)),
    ]
    shapes = {"a": (2, 3, 4), "b": (4, 3, 2), "c": (3, 4, 2), "d": (3, 4, 2)}
    shapes |= {"e": (2, 3, 5), "f": (5, 2, 3), "g": (2,)}
    grads = {n: jnp.asarray(rng.integers(-8, 8, s), jnp.float32) for n, s in shapes.items()}
    ties = [ties[i] for i in order]
    stored = tie_leaves(grads, ties)
    (whole,) = jax.vjp(lambda s: untie_leaves(s, ties), stored)[1](grads)
    roles = role_gradients(grads, ties)
    assert {source: sorted(parts) for source, parts in roles.items()} == {
        "a": ["a", "b", "c", "d"],
        "e": ["e", "f"],
    }
    for source, parts in roles.items():
        np.testing.assert_array_equal(sum(parts.values()), whole[source])


def test_shares_are_norms_over_their_sum():
    _, _, grads = case()
    as_input = np.linalg.norm(grads["embed"])
    as_output = 0.5 * np.linalg.norm(grads["head"])
    shares = jax.jit(lambda g: role_shares(g, HEAD))(grads)["embed"]
    np.testing.assert_allclose(shares["head"], as_output / (as_input + as_output), rtol=1e-6)
    np.testing.assert_allclose(shares["embed"] + shares["head"], 1, rtol=1e-6)


def test_shares_without_any_gradient_are_zero():
    grads = {"embed": jnp.zeros((3, 2)), "head": jnp.zeros((2, 3))}
    assert leaves(role_shares(grads, HEAD)) == {"embed/embed": 0, "embed/head": 0}


def test_the_gradient_of_the_stored_tree_is_refused():
    with pytest.raises(ValueError, match=r"no gradient for 'head'\. Pass the gradient of the seen"):
        role_gradients({"embed": jnp.ones((3, 2)), "head": None}, HEAD)
