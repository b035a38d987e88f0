"""Rounds of iterative pruning, and the controls of a ticket."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.pruning import globally, kept, tickets

SHAPES = {"a": (20, 30), "b": (30, 10), "bias": (10,)}
RULES = [("a", True), ("b", True), ("bias", None)]
KEY = jax.random.key(3)


def weights(seed: int) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {n: jax.random.normal(k, s) for (n, s), k in zip(SHAPES.items(), keys, strict=True)}


def total(masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def by_hand(params, masks, k: int):
    """The k largest of what is left, of both leaves together, in NumPy."""
    sizes = np.concatenate([np.where(masks[n], np.abs(params[n]), -1).ravel() for n in ("a", "b")])
    chosen = np.zeros(len(sizes), bool)
    chosen[np.argsort(-sizes, kind="stable")[:k]] = True
    return {"a": chosen[:600].reshape(20, 30), "b": chosen[600:].reshape(30, 10)}


def test_fifteen_rounds_are_nested_exact_and_the_largest_of_what_is_left():
    masks = tickets.all_kept(weights(0), RULES)
    assert total(masks) == 900 and set(masks) == {"a", "b"}
    run = jax.jit(lambda p, m, d: tickets.next_masks(p, m, d, RULES, allocation=globally))
    for r in range(1, 16):
        params = weights(r)  # not zero where the mask is: it is the mask that says what is gone
        density = jnp.float32(0.8**r)
        new = run(params, masks, density)
        for name, mask in by_hand(params, masks, int(kept(900, density))).items():
            np.testing.assert_array_equal(new[name], mask)
            assert not (np.asarray(new[name]) & ~np.asarray(masks[name])).any()
        masks = new


def test_layers_may_have_densities_of_their_own():
    """The paper prunes the output layer at half of the rate."""
    rules = [("a", True), ("b", 0.9), ("bias", None)]
    masks = tickets.next_masks(weights(1), tickets.all_kept(weights(0), rules), 0.8, rules)
    assert int(masks["a"].sum()) == 480 and int(masks["b"].sum()) == 270


def test_live_zeros_go_before_dead_weights_return():
    params = jax.tree.map(jnp.zeros_like, weights(0))
    masks = {"a": jnp.arange(600).reshape(20, 30) % 2 == 1, "b": jnp.ones((30, 10), bool)}
    new = tickets.next_masks(params, masks, 0.4, RULES)
    assert int(new["a"].sum()) == 240 and not (new["a"] & ~masks["a"]).any()


def test_rounds_of_a_population_are_those_of_its_members():
    params = jax.vmap(lambda i: jax.tree.map(lambda x: x * i, weights(1)))(jnp.array([1.0, -2, 3]))
    masks = jax.vmap(lambda p: tickets.all_kept(p, RULES))(params)
    found = jax.vmap(lambda p, m: tickets.next_masks(p, m, 0.3, RULES))(params, masks)
    one = tickets.next_masks(weights(1), tickets.all_kept(weights(1), RULES), 0.3, RULES)
    for name in one:
        np.testing.assert_array_equal(found[name], np.broadcast_to(one[name], (3, *SHAPES[name])))


@pytest.fixture
def masks():
    return tickets.next_masks(weights(1), tickets.all_kept(weights(1), RULES), 0.2, RULES)


def test_a_ticket_is_the_start_where_the_mask_is(masks):
    found = tickets.rewound(weights(0), masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], np.where(mask, weights(0)[name], 0))
    np.testing.assert_array_equal(found["bias"], weights(0)["bias"])


def test_shuffled_masks_keep_as_many_of_every_leaf_elsewhere(masks):
    found = tickets.shuffled(masks, KEY)
    assert {n: int(m.sum()) for n, m in found.items()} == {"a": 120, "b": 60}
    overlap = int((found["a"] & masks["a"]).sum())
    assert 10 < overlap < 40  # 24 by chance
    again = tickets.shuffled(masks, KEY)
    np.testing.assert_array_equal(found["a"], again["a"])


def test_places_have_equal_chances(masks):
    many = jax.vmap(lambda key: tickets.shuffled(masks, key)["b"])(jax.random.split(KEY, 2000))
    hits = np.asarray(many).sum(0)  # of 2,000 with chance 0.2: 400 ± 18
    assert abs(hits - 400).max() < 5 * 18


def test_spread_masks_keep_as_many_of_the_whole(masks):
    found = tickets.spread(masks, KEY)
    assert total(found) == total(masks) == 180
    lopsided = {"a": masks["a"], "b": jnp.zeros((30, 10), bool)}
    assert int(tickets.spread(lopsided, KEY)["b"].sum()) > 20  # a third of 120 by chance


def test_signs_alone(masks):
    found = tickets.signed(weights(0), masks)
    a = np.asarray(weights(0)["a"])
    expected = np.where(masks["a"], np.sign(a) * a.std(), 0)
    np.testing.assert_allclose(found["a"], expected, rtol=1e-6)
    ones = tickets.signed(weights(0), masks, scale=lambda leaf: jnp.float32(1))
    assert set(np.unique(ones["b"])) == {-1, 0, 1}


def test_masks_of_another_tree_are_named():
    masks = tickets.all_kept(weights(0), RULES)
    for of in (tickets.rewound, tickets.signed):
        with pytest.raises(ValueError, match="a mask of 'a', but no such leaf; there are b"):
            of({"b": weights(0)["b"]}, masks)
    with pytest.raises(ValueError, match="'b' is pruned, but the round before has no mask of it"):
        tickets.next_masks(weights(0), {"a": masks["a"]}, 0.5, RULES)
