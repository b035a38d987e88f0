"""The adapter transform: what is stored, what is frozen, what is seen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wlab import Stored, WeightTransform, chain, checkpoint, identity, tree
from wlab.quantization import dequantize, int4, quantize, round_to_grid
from wlab.transfer import Adapter, Base, dora, lora, pissa
from wlab.tying import Tie, tie

RULES = [(".*/kernel", True), ("head", "train"), (".*", None)]
SMALL = Adapter(2, alpha=3)


def params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"q": {"kernel": (8, 6), "bias": (6,)}, "v": {"kernel": (8, 4)}, "head": (4, 3)}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s).astype(np.float32)).astype(dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def moved(stored):
    """Factors that are no longer fresh."""
    return jax.tree.map(
        lambda x: x + jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), stored
    )


def test_stored_holds_factors_by_the_path_of_their_kernel_and_the_state_the_rest(key):
    stored, state = lora(SMALL, RULES).init(params(), key)
    sizes = {path: leaf.shape for path, leaf in tree.leaves(stored).items()}
    assert sizes == {
        "head": (4, 3),
        "q/kernel/a": (8, 2),
        "q/kernel/b": (2, 6),
        "v/kernel/a": (8, 2),
        "v/kernel/b": (2, 4),
    }
    assert set(state.base) == {"q/kernel", "v/kernel"} and set(state.frozen) == {"q/bias"}
    assert (
        tree.paths(tree.replace(stored, {"q/kernel/a": None})) == list(sizes)[:1] + list(sizes)[2:]
    )


def test_by_default_only_the_factors_have_moments(key):
    stored, _ = lora(SMALL, [(".*/kernel", True), (".*", None)]).init(params(), key)
    factors = 2 * (8 + 6) + 2 * (8 + 4)
    assert tree.count(stored) == factors
    opt = optax.adamw(1e-3).init(stored)
    assert tree.count(opt) == 2 * factors + 1  # and Adam's step


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fresh_adapter_changes_no_bit_of_what_is_seen(dtype, key):
    given = params(dtype)
    weights = lora(SMALL, RULES)
    seen = weights.finalize(*jax.jit(weights.init)(given, key))
    assert jax.tree.structure(seen) == jax.tree.structure(given)
    for ours, theirs in zip(jax.tree.leaves(seen), jax.tree.leaves(given), strict=True):
        assert ours.dtype == dtype and ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("adapter", [dora(2), Adapter(2, start=pissa), dora(2, start=pissa)])
def test_dora_and_pissa_begin_with_the_given_kernel_up_to_rounding(adapter, key):
    given = params()
    weights = lora(adapter, RULES)
    seen = weights.finalize(*jax.jit(weights.init)(given, key))
    for ours, theirs in zip(jax.tree.leaves(seen), jax.tree.leaves(given), strict=True):
        assert np.abs(ours - theirs).max() <= 4 * 2.0**-23 * np.abs(theirs).max()


def test_the_view_adds_the_scaled_product(key):
    weights, given = lora(SMALL, RULES), params()
    stored, state = weights.init(given, key)
    stored = moved(stored)
    seen, factors = weights.view(stored, state, 0), tree.leaves(stored)
    change = np.asarray(factors["q/kernel/a"]) @ np.asarray(factors["q/kernel/b"])
    np.testing.assert_allclose(
        seen["q"]["kernel"], given["q"]["kernel"] + 1.5 * change, rtol=1e-5, atol=1e-6
    )
    assert seen["q"]["bias"] is not None and np.array_equal(seen["q"]["bias"], given["q"]["bias"])
    np.testing.assert_array_equal(seen["head"], factors["head"])


def test_rules_give_leaves_adapters_of_their_own_and_keys_of_their_own(key):
    rules = [("q/kernel", Adapter(3)), ("v/kernel", True), (".*", None)]
    one = tree.leaves(lora(SMALL, rules).init(params(), key)[0])
    assert one["q/kernel/a"].shape == (8, 3) and one["v/kernel/a"].shape == (8, 2)
    fewer = {name: leaf for name, leaf in params().items() if name != "q"}
    two = tree.leaves(lora(SMALL, rules[1:]).init(fewer, key)[0])
    np.testing.assert_array_equal(one["v/kernel/a"], two["v/kernel/a"])


def test_a_tied_leaf_is_adapted_once_and_seen_by_all_its_users(key):
    table = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32))
    given = {"embed": table, "head": table.T.copy()}
    weights = chain(
        lora=lora(SMALL, [("embed", True)]), tie=tie([Tie("head", "embed", transpose=True)])
    )
    stored, state = weights.init(given, key)
    assert tree.paths(stored) == ["embed/a", "embed/b"]
    stored = moved(stored)
    a, b = tree.leaves(stored).values()
    want = np.asarray(table) + 1.5 * np.asarray(a) @ np.asarray(b)
    seen = weights.finalize(stored, state)
    np.testing.assert_allclose(seen["embed"], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["head"], seen["embed"].T)
    # The gradient of a factor is the sum over both users.
    probe = {"embed": np.float32(want), "head": np.float32(want.T)}

    def loss(stored):
        return sum(
            jnp.sum(leaf * probe[name]) for name, leaf in weights.view(stored, state, 0).items()
        )

    got = tree.leaves(jax.grad(loss)(stored))["embed/b"]
    np.testing.assert_allclose(got, 1.5 * np.asarray(a).T @ (2 * probe["embed"]), rtol=1e-4)


def test_a_nested_chain_equals_the_flat_one(key):
    given = params() | {"twin": params()["q"]}
    parts = {
        "lora": lora(SMALL, RULES),
        "tie": tie([Tie("twin/kernel", "q/kernel"), Tie("twin/bias", "q/bias")]),
    }
    flat, nested = chain(**parts), chain(lora=parts["lora"], inner=chain(tie=parts["tie"]))
    stored, state = flat.init(given, key)
    other, inner = nested.init(given, key)
    jax.tree.map(np.testing.assert_array_equal, stored, other)
    seen = flat.finalize(moved(stored), state), nested.finalize(moved(other), inner)
    jax.tree.map(np.testing.assert_array_equal, *seen)


@pytest.mark.parametrize("adapter", [SMALL, dora(2), Adapter(2, start=pissa)])
def test_a_quantized_base_lies_packed_in_the_state(adapter, key):
    given, format = {"q": {"kernel": params()["q"]["kernel"]}}, int4(group_size=4)
    base = Base(lambda kernel: quantize(kernel, format), dequantize)
    weights = lora(adapter, RULES[:1], base=base)
    stored, state = jax.jit(weights.init)(given, key)
    kernel, factors = given["q"]["kernel"], tree.leaves(stored)
    assert tree.leaves(state)["base/q/kernel/codes"].dtype == jnp.uint8
    assert tree.nbytes(state) == 8 * 6 // 2 + 2 * 6 * 4  # half a byte each, and the scales
    change = 0
    if adapter.start is pissa:
        change = factors["q/kernel/a"] @ factors["q/kernel/b"]
    want = round_to_grid(kernel - change, format) + change
    seen = weights.finalize(stored, state)["q"]["kernel"]
    np.testing.assert_allclose(seen, want, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_factors_is_the_chain_rule_through_the_dense_one(key):
    weights = lora(SMALL, RULES)
    stored, state = weights.init(params(), key)
    stored = moved(stored)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32))

    def loss(seen):
        return jnp.sum(jnp.tanh(x @ seen["q"]["kernel"] + seen["q"]["bias"][None]))

    got = tree.leaves(jax.grad(lambda s: loss(weights.view(s, state, 0)))(stored))
    dense = np.asarray(jax.grad(loss)(weights.view(stored, state, 0))["q"]["kernel"])
    a, b = (np.asarray(tree.leaves(stored)[f"q/kernel/{name}"]) for name in "ab")
    np.testing.assert_allclose(got["q/kernel/a"], 1.5 * dense @ b.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["q/kernel/b"], 1.5 * a.T @ dense, rtol=1e-4, atol=1e-5)


def step_size(path: str) -> WeightTransform:
    """A learned factor of one leaf, an extra trainable."""
    return WeightTransform(
        lambda params, key: (Stored(params, {path: jnp.ones(())}), ()),
        lambda stored, state, step: tree.replace(
            stored.params, {path: tree.leaves(stored.params)[path] * stored.extra[path]}
        ),
    )


def test_extra_trainables_of_a_later_member_are_left_alone(key):
    weights = chain(
        lora=lora(SMALL, [(".*/kernel", True), (".*", None)]), size=step_size("q/kernel")
    )
    stored, state = weights.init(params(), key)
    assert "+/q/kernel" in tree.paths(stored) and "head" not in tree.paths(stored)
    jax.tree.map(np.testing.assert_array_equal, weights.finalize(stored, state), params())


@pytest.mark.parametrize("kind", ["nnx", "equinox"])
def test_any_tree_can_be_adapted(kind, key):
    if kind == "nnx":
        given = nnx.state(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.Param)
        rules, name, shapes = [("kernel", True), ("bias", None)], "kernel", [(8, 2), (2, 6)]
    else:
        given = eqx.filter(eqx.nn.Linear(8, 6, key=key), eqx.is_inexact_array)
        torch = Adapter(2, in_axis=-1, out_axis=-2)
        rules, name, shapes = [("weight", torch), ("bias", None)], "weight", [(8, 2), (2, 6)]
    weights = lora(SMALL, rules)
    stored, state = weights.init(given, key)
    assert tree.paths(stored) == [f"{name}/a", f"{name}/b"]
    assert [leaf.shape for leaf in jax.tree.leaves(stored)] == shapes
    seen = weights.finalize(stored, state)
    assert jax.tree.structure(seen) == jax.tree.structure(given)
    jax.tree.map(np.testing.assert_array_equal, seen, given)


def test_an_adapter_that_is_taken_away_leaves_its_kernel_behind(key):
    weights = lora(SMALL, [(".*/kernel", True), (".*", None)])
    stored, state = weights.init(params(), key)
    stored = moved(stored)
    plain = checkpoint.migrate(weights, identity(), stored, state, key=key, step=0)
    jax.tree.map(np.testing.assert_array_equal, plain.stored, weights.finalize(stored, state, 0))


def test_rules_and_leaves_that_do_not_fit_are_refused(key):
    with pytest.raises(TypeError, match=r"rule '\.\*' gives 'tune'; give True, an Adapter"):
        lora(SMALL, [(".*", "tune")])
    with pytest.raises(ValueError, match=r"lora: rule 'k/\.\*' matches no leaf"):
        lora(SMALL, [("k/.*", True), *RULES]).init(params(), key)
    with pytest.raises(ValueError, match="adapt none of the leaves"):
        lora(SMALL, [(".*", "train")]).init(params(), key)
    with pytest.raises(ValueError, match=r"leaf 'q/bias': shape \(6,\) has no axis -2"):
        lora(SMALL, [("q/.*", True), (".*", None)]).init(params(), key)
    with pytest.raises(ValueError, match=r"leaf 'head': .* no more than rank 3"):
        lora(Adapter(4), [("head", True), (".*", None)]).init(params(), key)
    with pytest.raises(TypeError, match=r"leaf 'w' is int32\[4,4\], not real floating point"):
        lora(SMALL, [("w", True)]).init({"w": jnp.ones((4, 4), jnp.int32)}, key)
