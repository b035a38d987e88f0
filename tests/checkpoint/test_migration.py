"""A changed recipe keeps what agrees, lists what is fresh, and refuses to change what is seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import tree
from wlab.checkpoint import carry, load, migrate, save
from wlab.transform import WeightTransform, chain, identity

PARAMS = {"embed": jnp.arange(6.0).reshape(3, 2), "head": jnp.ones((2, 3)), "bias": jnp.ones(3)}


def mask(path: str) -> WeightTransform:
    """Keeps the positive entries of one leaf: a pruning mask at its smallest."""

    def project(params: Any, state: Any) -> Any:
        kept = jnp.where(state["masks"][path], params[path], 0)
        return {**params, path: kept}

    return WeightTransform(
        init=lambda params, key: (params, {"masks": {path: params[path] > 0}}),
        view=lambda stored, state, step: stored,
        project=project,
        in_place=True,
    )


def tied() -> WeightTransform:
    """`head` is `embed` transposed."""
    return WeightTransform(
        init=lambda params, key: ({k: v for k, v in params.items() if k != "head"}, ()),
        view=lambda stored, state, step: {**stored, "head": stored["embed"].T},
    )


def adapter(rank: int = 1) -> WeightTransform:
    """`embed` is a frozen base plus a product of two trained factors."""

    def init(params: Any, key: Any) -> tuple[Any, Any]:
        rows, columns = params["embed"].shape
        factors = {
            "a": jax.random.normal(key, (rows, rank)),
            "b": jnp.zeros((rank, columns)),
        }
        return {**params, "embed": factors}, {"base": params["embed"]}

    def view(stored: Any, state: Any, step: Any) -> Any:
        return {**stored, "embed": state["base"] + stored["embed"]["a"] @ stored["embed"]["b"]}

    return WeightTransform(init=init, view=view)


def halves(name: str = "bias") -> WeightTransform:
    """Rounds one leaf to halves, as fake quantization does."""
    return WeightTransform(
        init=lambda params, key: (params, {"scale": jnp.float32(0.5)}),
        view=lambda stored, state, step: {**stored, name: jnp.round(stored[name] * 2) / 2},
    )


def begin(transform: WeightTransform, params: Any = PARAMS) -> tuple[Any, Any]:
    return transform.init(params, jax.random.key(0))


def move(old, new, stored, state, **options):
    return migrate(old, new, stored, state, key=jax.random.key(1), step=0, **options)


def assert_sees(transform, moved, expected):
    seen = transform.finalize(moved.stored, moved.state, 0)
    jax.tree.map(np.testing.assert_array_equal, seen, expected)


def test_moments_of_the_weights_that_stay_are_carried():
    tx = optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.scale_by_adam()))
    opt = tx.init(PARAMS)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with its integer count
        _, opt = tx.update(jax.tree.map(jnp.ones_like, PARAMS), opt, PARAMS)
    fewer = {"embed": PARAMS["embed"], "bias": jnp.ones(4)}
    longer = optax.named_chain(("adam", optax.scale_by_adam()), ("trace", optax.trace(0.9)))
    carried, fate = carry(opt, longer.init(fewer))
    assert fate.kept == ("adam/count", "adam/mu/embed", "adam/nu/embed")
    assert fate.fresh == (
        "adam/mu/bias",
        "adam/nu/bias",
        "trace/trace/bias",
        "trace/trace/embed",
    )
    assert fate.dropped == ("adam/mu/bias", "adam/mu/head", "adam/nu/bias", "adam/nu/head")
    assert int(carried["adam"].count) == 1
    np.testing.assert_array_equal(carried["adam"].mu["embed"], opt["adam"].mu["embed"])


def test_a_saved_state_is_carried_into_another_without_its_structure(tmp_path):
    saved = {"stored": PARAMS, "opt": optax.trace(0.9).init(PARAMS), "key": jax.random.key(3)}
    save(tmp_path, 1, saved)
    like = {"stored": PARAMS | {"head": jnp.zeros((2, 4))}, "key": jax.random.key(0)}
    carried, fate = carry(load(tmp_path), like)
    assert fate.kept == ("key", "stored/bias", "stored/embed")
    assert fate.fresh == ("stored/head",)
    np.testing.assert_array_equal(
        jax.random.key_data(carried["key"]), jax.random.key_data(saved["key"])
    )


def test_another_dtype_is_fresh():
    carried, fate = carry({"w": jnp.ones(2)}, {"w": jnp.zeros(2, jnp.bfloat16)})
    assert (fate.kept, fate.fresh, fate.dropped) == ((), ("w",), ("w",))
    assert carried["w"].dtype == jnp.bfloat16


def test_nothing_changes_under_the_same_recipe():
    recipe = chain(prune=mask("embed"), quant=halves())
    stored, state = begin(recipe)
    moved = move(recipe, recipe, stored, state)
    jax.tree.map(np.testing.assert_array_equal, (moved.stored, moved.state), (stored, state))
    assert moved.weights.fresh == moved.states.fresh == moved.changed == ()


def test_a_removed_tie_leaves_its_view_behind_and_the_mask_stays():
    old, new = chain(prune=mask("embed"), tie=tied()), chain(prune=mask("embed"))
    stored, state = begin(old)
    moved = move(old, new, stored, state)
    np.testing.assert_array_equal(moved.stored["head"], stored["embed"].T)
    assert moved.weights.fresh == ("head",)
    assert moved.states.kept == ("prune/masks/embed",)
    assert_sees(new, moved, old.finalize(stored, state, 0))


def test_a_removed_adapter_is_folded_in():
    old = chain(lora=adapter())
    stored, state = begin(old)
    stored["embed"]["b"] = jnp.array([[1.0, -2.0]])
    moved = move(old, identity(), stored, state)
    expected = state["lora"]["base"] + stored["embed"]["a"] @ stored["embed"]["b"]
    np.testing.assert_allclose(moved.stored["embed"], expected, rtol=1e-6)
    assert moved.weights.dropped == ("embed/a", "embed/b")
    assert moved.states.dropped == ("lora/base",)


def test_an_added_adapter_starts_from_what_was_seen():
    old = chain(quant=halves("embed"))
    stored, state = begin(old, PARAMS | {"embed": PARAMS["embed"] + 0.1})
    new = chain(quant=halves("embed"), lora=adapter())
    with pytest.raises(Exception):  # noqa: B017  the stand-in for quantization wants an array
        move(old, new, stored, state)
    moved = move(old, chain(lora=adapter()), stored, state)
    np.testing.assert_array_equal(moved.state["lora"]["base"], PARAMS["embed"])
    assert moved.weights.fresh == ("embed/a", "embed/b")


def test_reordered_members_keep_their_state():
    old = chain(first=mask("embed"), second=mask("head"))
    stored, state = begin(old)
    state["first"]["masks"]["embed"] = jnp.zeros((3, 2), bool)
    moved = move(old, chain(second=mask("head"), first=mask("embed")), stored, state)
    assert not np.any(moved.state["first"]["masks"]["embed"])
    assert moved.states.fresh == ()


def test_removed_rounding_is_refused_until_one_says_which_weights_to_keep():
    old = chain(quant=halves())
    stored, state = begin(old, PARAMS | {"bias": jnp.array([0.1, 0.6, 1.0])})
    with pytest.raises(ValueError, match=r"would see \['bias'\] otherwise"):
        move(old, identity(), stored, state)
    latent = move(old, identity(), stored, state, allow=["bias"])
    np.testing.assert_array_equal(latent.stored["bias"], stored["bias"])
    assert latent.changed == ("bias",)
    seen = move(old, identity(), stored, state, keep="seen")
    np.testing.assert_array_equal(seen.stored["bias"], [0.0, 0.5, 1.0])
    assert seen.weights.fresh == ("bias",) and seen.changed == ()


def test_a_tie_between_unequal_leaves_is_lossy():
    stored, state = begin(identity())
    with pytest.raises(ValueError, match=r"would see \['head'\] otherwise \(1 leaves\)"):
        move(identity(), chain(tie=tied()), stored, state)
    moved = move(identity(), chain(tie=tied()), stored, state, allow=["head"])
    assert moved.weights.dropped == ("head",)
    assert tree.paths(moved.stored) == ["bias", "embed"]


def test_a_weight_without_a_name_in_the_new_recipe_is_a_change():
    def without_bias(params: Any, key: Any) -> tuple[Any, Any]:
        return {k: v for k, v in params.items() if k != "bias"}, ()

    forget = WeightTransform(init=without_bias, view=lambda stored, state, step: stored)
    stored, state = begin(identity())
    with pytest.raises(ValueError, match="'bias'"):
        move(identity(), forget, stored, state)
