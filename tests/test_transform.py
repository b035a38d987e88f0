"""The protocol: what a chain promises, tried on transforms small enough to check by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import Stored, WeightTransform, chain, identity, tree
from wlab.transform import LAST_STEP

PARAMS = {"a": jnp.array([1.0, 2.0, -3.0]), "b": jnp.array([[4.0, 0.5]])}


def affine(factor: float, shift: float) -> WeightTransform:
    """Seen is `factor · stored + shift`; the factor is kept in the state."""
    return WeightTransform(
        init=lambda params, key: (
            jax.tree.map(lambda p: (p - shift) / factor, params),
            {"factor": jnp.float32(factor)},
        ),
        view=lambda stored, state, step: jax.tree.map(
            lambda s: s * state["factor"] + shift, stored
        ),
    )


def mask(*paths: str, in_place: bool = True) -> WeightTransform:
    """Zeroes the first entry of each leaf named; an update zeroes the last one instead."""

    def zero(params: Any, state: Any) -> Any:
        found = tree.leaves(params)
        return tree.replace(params, {p: jnp.where(state[p], found[p], 0) for p in paths})

    def init(params: Any, key: Any) -> tuple[Any, Any]:
        found = tree.leaves(params)
        state = {p: jnp.ones(found[p].shape, bool).at[..., 0].set(False) for p in paths}
        return (zero(params, state) if in_place else params), state

    return WeightTransform(
        init,
        view=lambda stored, state, step: stored if in_place else zero(stored, state),
        project=zero,
        update=lambda stored, grads, state, step: {p: m[..., ::-1] for p, m in state.items()},
        in_place=in_place,
    )


def spy(*, needs_grads: bool = False) -> WeightTransform:
    """Its state becomes what `update` was given."""

    def update(stored: Any, grads: Any, state: Any, step: Any) -> Any:
        return {"stored": stored, "grads": grads, "step": step}

    return identity()._replace(update=update, needs_grads=needs_grads)


def bent(power: int) -> WeightTransform:
    """A view whose derivative depends on where it is taken."""
    return WeightTransform(
        init=lambda params, key: (params, ()),
        view=lambda stored, state, step: jax.tree.map(lambda s: s**power, stored),
    )


def drawn() -> WeightTransform:
    """A state that is random."""
    return identity()._replace(init=lambda params, key: (params, jax.random.normal(key)))


def assert_same(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)


def test_identity_stores_what_is_seen(key: jax.Array):
    stored, state = identity().init(PARAMS, key)
    assert stored is PARAMS
    assert identity().view(stored, state, 0) is stored


def test_a_chain_reads_from_stored_to_seen(key: jax.Array):
    weights = chain(twice=affine(2.0, 0.0), plus=affine(1.0, 3.0))
    _, state = weights.init(PARAMS, key)
    assert_same(weights.view({"a": jnp.array(5.0)}, state, 0), {"a": jnp.array(13.0)})


def test_what_was_initialized_is_seen(key: jax.Array):
    weights = chain(twice=affine(2.0, -1.0), plus=affine(0.5, 3.0))
    stored, state = weights.init(PARAMS, key)
    assert_same(weights.view(stored, state, 0), PARAMS)
    assert_same(stored, jax.tree.map(lambda p: ((p - 3) / 0.5 + 1) / 2, PARAMS))


def test_init_runs_from_seen_to_stored(key: jax.Array):
    order = []

    def noted(name: str) -> WeightTransform:
        def init(params: Any, key: Any) -> tuple[Any, Any]:
            order.append(name)
            return {name: params}, ()

        return identity()._replace(init=init)

    stored, _ = chain(x=noted("x"), y=noted("y"), z=noted("z")).init(PARAMS, key)
    assert order == ["z", "y", "x"]
    assert stored == {"x": {"y": {"z": PARAMS}}}


def test_the_state_is_keyed_by_name_in_the_order_of_the_chain(key: jax.Array):
    _, state = chain(z=affine(2.0, 0.0), a=identity()).init(PARAMS, key)
    assert list(state) == ["z", "a"]


def test_members_of_one_kind_draw_different_numbers(key: jax.Array):
    _, state = chain(x=drawn(), y=drawn()).init(PARAMS, key)
    assert state["x"] != state["y"]
    _, longer = chain(before=drawn(), x=drawn(), y=drawn(), after=drawn()).init(PARAMS, key)
    assert longer["x"] == state["x"]


def test_an_empty_chain_is_the_identity(key: jax.Array):
    weights = chain()
    stored, state = weights.init(PARAMS, key)
    assert stored is weights.view(stored, state, 0) is PARAMS
    assert weights.in_place
    assert weights.update is weights.project is None


MEMBERS = {
    "one": mask("a"),
    "two": spy(needs_grads=True),
    "three": affine(2.0, 1.0),
    "four": spy(needs_grads=True),
}


def test_a_nested_chain_is_the_flat_one(key: jax.Array):
    one, two, three, four = MEMBERS.values()
    flat = chain(one=one, two=two, three=three, four=four)
    nested = chain(left=chain(one=one, two=two), right=chain(three=three, four=four))

    def run(weights: WeightTransform) -> Any:
        stored, state = weights.init(PARAMS, key)
        assert weights.project
        assert weights.update
        stored = weights.project(jax.tree.map(lambda s: s + 1.0, stored), state)
        return stored, weights.update(stored, PARAMS, state, 3), weights.view(stored, state, 3)

    stored, state, seen = run(flat)
    nested_stored, nested_state, nested_seen = run(nested)
    assert_same((stored, seen), (nested_stored, nested_seen))
    assert_same(state, nested_state["left"] | nested_state["right"])


def test_a_chain_in_a_chain_reports_what_it_is():
    inner = chain(prune=mask("a"), bend=affine(2.0, 0.0))
    assert not inner.in_place
    assert chain(prune=mask("a"), look=identity()).in_place
    assert inner.project is not None
    assert inner.update is not None
    assert not inner.needs_grads
    assert chain(inner=inner, look=spy(needs_grads=True)).needs_grads


def test_zeros_behind_a_view_that_moves_them_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Put 'prune' before 'bend'\."):
        chain(look=identity(), bend=affine(2.0, 1.0), prune=mask("a"))
    with pytest.raises(ValueError, match="but 'group' before it changes what is stored"):
        chain(group=chain(look=identity(), bend=affine(2.0, 1.0)), prune=mask("a"))


def test_the_first_view_that_is_not_in_place_may_still_keep_zeros(key: jax.Array):
    weights = chain(prune=mask("a"), hide=mask("b", in_place=False), bend=affine(2.0, 0.0))
    stored, state = weights.init(PARAMS, key)
    assert weights.project
    kept = weights.project(jax.tree.map(jnp.ones_like, stored), state)
    assert_same(kept, {"a": jnp.array([0.0, 1.0, 1.0]), "b": jnp.array([[0.0, 1.0]])})
    with pytest.raises(ValueError, match=r"'late' keeps zeros .* but 'hide' before it"):
        chain(hide=mask("b", in_place=False), late=mask("a"))


def test_two_owners_of_one_leaf_are_refused_by_name(key: jax.Array):
    weights = chain(first=mask("a"), second=mask("a", "b"))
    with pytest.raises(ValueError, match="'first' and 'second' both zero entries of 'a'"):
        weights.init(PARAMS, key)


def test_two_masks_of_different_leaves_are_welcome(key: jax.Array):
    stored, state = chain(first=mask("a"), second=mask("b")).init(PARAMS, key)
    assert stored["a"][0] == stored["b"][0, 0] == 0
    assert list(state) == ["first", "second"]


def test_gradients_are_asked_for_by_name_only(key: jax.Array):
    weights = chain(look=spy(), bend=bent(2), ask=spy(needs_grads=True))
    stored, state = weights.init(PARAMS, key)
    assert weights.update
    new = weights.update(stored, PARAMS, state, 7)
    assert new["look"]["grads"] is None
    assert new["ask"]["grads"] is not None
    assert new["look"]["step"] == 7
    assert new["bend"] == ()


def test_without_askers_the_gradient_may_be_missing(key: jax.Array):
    weights = chain(look=spy(), bend=bent(2))
    stored, state = weights.init(PARAMS, key)
    assert weights.update
    assert weights.update(stored, None, state, 0)["look"]["grads"] is None


def test_each_member_is_given_the_gradient_of_what_its_own_view_returned(key: jax.Array):
    ask = spy(needs_grads=True)
    weights = chain(one=ask, square=bent(2), two=ask, cube=bent(3), three=ask)
    stored, state = weights.init(PARAMS, key)

    def loss(seen: Any) -> jax.Array:
        return jnp.sum(jnp.sin(seen["a"])) + jnp.sum(jnp.cos(seen["b"]))

    def power(tree_: Any, by: int) -> Any:
        return jax.tree.map(lambda x: x**by, tree_)

    assert weights.update
    new = weights.update(stored, jax.grad(loss)(weights.view(stored, state, 0)), state, 0)
    by_hand = {
        "one": jax.grad(lambda x: loss(power(power(x, 2), 3)))(stored),
        "two": jax.grad(lambda x: loss(power(x, 3)))(power(stored, 2)),
        "three": jax.grad(loss)(power(stored, 6)),
    }
    for name, expected in by_hand.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new[name]["grads"], expected
        )


def test_each_member_is_updated_on_what_the_new_states_before_it_show(key: jax.Array):
    weights = chain(prune=mask("a"), bend=bent(2), look=spy())
    _, state = weights.init(PARAMS, key)
    assert weights.update
    new = weights.update(PARAMS, None, state, 0)
    assert_same(new["look"]["stored"]["a"], jnp.array([1.0, 4.0, 0.0]))  # the last, not the first


@pytest.mark.parametrize(
    "weights",
    [
        identity(),
        chain(),
        chain(m=mask("a"), n=mask("b"), d=drawn(), s=affine(2.0, 1.0)),
        mask("b"),
    ],
    ids=["identity", "empty", "chain", "mask"],
)
def test_init_promises_what_it_gives(weights: WeightTransform, key: jax.Array):
    def shapes(made: Any) -> Any:
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), made)

    assert shapes(jax.eval_shape(weights.init, PARAMS, key)) == shapes(weights.init(PARAMS, key))


def test_a_view_differentiates_forward_and_backward(key: jax.Array):
    weights = chain(s=affine(2.0, 1.0), c=bent(3))
    stored, state = weights.init(PARAMS, key)

    def seen(s: Any) -> Any:
        return weights.view(s, state, 0)

    primal, tangent = jax.jvp(seen, (stored,), (jax.tree.map(jnp.ones_like, stored),))
    (pulled,) = jax.vjp(seen, stored)[1](jax.tree.map(jnp.ones_like, primal))
    assert_same(tangent, pulled)  # the map is elementwise: its Jacobian is diagonal


def test_finalize_is_the_view_at_the_last_step_unless_told(key: jax.Array):
    weights = identity()._replace(view=lambda stored, state, step: {"step": jnp.int32(step)})
    assert weights.finalize(PARAMS, ())["step"] == LAST_STEP == np.iinfo(np.int32).max
    assert weights.finalize(PARAMS, (), 3)["step"] == 3


def test_finalize_outlives_what_was_stored(key: jax.Array):
    weights = chain(m=mask("b"), look=identity())
    stored, state = weights.init(jax.tree.map(jnp.copy, PARAMS), key)
    seen = weights.finalize(stored, state)
    jax.tree.map(lambda x: x.delete(), stored)
    np.testing.assert_array_equal(seen["a"], [1, 2, -3])


def test_extras_stand_beside_parameters_that_keep_their_paths():
    stored = Stored({"fc": {"kernel": jnp.ones(2)}}, {"fc/kernel": jnp.float32(3)})
    assert tree.paths(stored) == ["fc/kernel", "+/fc/kernel"]
    assert jax.tree.structure(jax.tree.map(lambda x: x, stored)) == jax.tree.structure(stored)
    assert isinstance(jax.tree.map(lambda x: x, stored), Stored)


def test_extras_are_differentiated_and_survive_jit():
    stored = Stored({"w": jnp.array([1.0, 2.0])}, {"w": jnp.float32(3)})

    @jax.jit
    def grads(stored: Stored) -> Stored:
        return jax.grad(lambda s: jnp.sum(s.params["w"] * s.extra["w"]))(stored)

    found = grads(stored)
    assert_same(found, Stored({"w": jnp.array([3.0, 3.0])}, {"w": jnp.float32(3)}))
