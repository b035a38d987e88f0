"""Frozen leaves leave the stored tree and are seen as ever."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab import chain, tree
from wlab.pruning import magnitude
from wlab.transfer import freeze
from wlab.tying import Tie, tie

RULES = [("body/.*", True), (".*", None)]


def params(dtype=jnp.float32):
    body = jnp.arange(12, dtype=dtype).reshape(4, 3)
    return {"body": {"kernel": body}, "head": {"kernel": jnp.ones((3, 2), dtype)}}


def test_frozen_leaves_are_state_and_seen_bit_for_bit(key):
    for dtype in (jnp.float32, jnp.bfloat16):
        given = params(dtype)
        stored, state = freeze(RULES).init(given, key)
        assert tree.paths(stored) == ["head/kernel"]
        assert list(state.frozen) == ["body/kernel"]
        seen = freeze(RULES).view(stored, state, 0)
        assert jax.tree.structure(seen) == jax.tree.structure(given)
        for ours, theirs in zip(jax.tree.leaves(seen), jax.tree.leaves(given), strict=True):
            assert ours.dtype == dtype and ours.tobytes() == theirs.tobytes()


def test_no_gradient_reaches_a_frozen_leaf(key):
    weights = freeze(RULES)
    stored, state = weights.init(params(), key)

    def loss(stored, state):
        seen = weights.view(stored, state, 0)
        return jnp.sum(seen["body"]["kernel"] @ seen["head"]["kernel"])

    to_stored, to_state = jax.grad(loss, argnums=(0, 1))(stored, state)
    np.testing.assert_array_equal(to_stored["head"]["kernel"][:, 0], [18, 22, 26])
    assert not np.any(to_state.frozen["body/kernel"])


def test_integers_may_be_frozen(key):
    given = {"table": jnp.arange(4), "w": jnp.ones(2)}
    weights = freeze([("table", True), (".*", False)])
    np.testing.assert_array_equal(weights.finalize(*weights.init(given, key))["table"], range(4))


@pytest.mark.parametrize("kind", ["nnx", "equinox"])
def test_any_tree_can_be_frozen_in_part(kind, key):
    if kind == "nnx":
        given = nnx.state(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Param)
        rules = [("kernel", True), ("bias", False)]
    else:
        given = eqx.filter(eqx.nn.Linear(4, 3, key=key), eqx.is_inexact_array)
        rules = [("weight", True), ("bias", False)]
    stored, state = freeze(rules).init(given, key)
    assert tree.paths(stored) == ["bias"]
    seen = freeze(rules).finalize(stored, state)
    assert jax.tree.structure(seen) == jax.tree.structure(given)
    jax.tree.map(np.testing.assert_array_equal, seen, given)


def test_a_mask_and_a_tie_see_only_what_is_not_frozen(key):
    given = params() | {"twin": {"kernel": jnp.ones((3, 2))}}
    weights = chain(
        prune=magnitude(0.5, [("head/kernel", True)]),
        freeze=freeze(RULES),
        tie=tie([Tie("twin/kernel", "head/kernel")]),
    )
    stored, state = weights.init(given, key)
    assert tree.paths(stored) == ["head/kernel"]
    assert tree.paths(weights.finalize(stored, state)) == tree.paths(given)
    with pytest.raises(ValueError, match="Put 'prune' before 'freeze'"):
        chain(freeze=freeze(RULES), prune=magnitude(0.5, [(".*", True)]))


def test_rules_that_do_not_fit_are_refused(key):
    with pytest.raises(ValueError, match=r"freeze: rule 'bodi/\.\*' matches no leaf"):
        freeze([("bodi/.*", True), (".*", None)]).init(params(), key)
    with pytest.raises(ValueError, match="freeze: no rule matches leaf 'head/kernel'"):
        freeze([("body/.*", True)]).init(params(), key)
    with pytest.raises(ValueError, match=r"freeze all of .*train a leaf"):
        freeze([(".*", True)]).init(params(), key)
