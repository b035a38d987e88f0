"""A tied leaf is stored once and seen everywhere, by every kind of tree and transform."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.transform import chain, identity
from wlab.tree import count, global_norm, leaves, nbytes, paths
from wlab.tying import Tie, tie, tie_leaves, untie_leaves

HEAD = [Tie("head/kernel", "embed/embedding", transpose=True)]
T5 = [Tie("head/kernel", "embed/embedding", transpose=True, scale=8**-0.5)]


def model(dtype=jnp.float32, vocab=6, width=8):
    rng = np.random.default_rng(0)
    shapes = [(vocab, width), (width, vocab), (width, width)]
    embed, head, mlp = (jnp.asarray(rng.normal(size=s).astype(dtype)) for s in shapes)
    return {"embed": {"embedding": embed}, "head": {"kernel": head}, "mlp": [mlp]}


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_destination_leaves_the_stored_tree_and_the_rest_stays(key):
    params = model()
    stored, state = tie(HEAD).init(params, key)
    assert paths(stored) == ["embed/embedding", "mlp/0"]
    assert set(stored) == set(params) and state == ()
    assert stored["embed"]["embedding"] is params["embed"]["embedding"]


def test_the_destination_is_seen_as_the_scaled_transpose_of_the_source(key):
    stored, state = tie(T5).init(model(), key)
    seen = tie(T5).view(stored, state, 0)
    table = np.asarray(stored["embed"]["embedding"])
    np.testing.assert_array_equal(seen["head"]["kernel"], table.T * np.float32(8**-0.5))
    np.testing.assert_array_equal(seen["embed"]["embedding"], table)


def test_a_tied_leaf_is_counted_once_in_weights_bytes_norm_and_moments(key):
    params = model()
    stored, _ = tie(HEAD).init(params, key)
    seen = untie_leaves(stored, HEAD)
    table = params["embed"]["embedding"]
    rest = params["mlp"][0]
    assert count(stored) == table.size + rest.size == count(params) - table.size
    assert nbytes(stored) == 4 * count(stored)
    once = np.sqrt(np.square(table).sum() + np.square(rest).sum())
    np.testing.assert_allclose(global_norm(stored), once, rtol=1e-6)
    np.testing.assert_allclose(optax.tree.norm(stored), once, rtol=1e-6)
    assert optax.tree.norm(seen) > 1.05 * once
    assert count(optax.adam(1e-3).init(stored)) == 2 * count(stored) + 1  # m, v and the step


def test_a_tree_of_a_table_and_its_head_halves(key):
    params = {name: model()[name] for name in ("embed", "head")}
    stored = tie_leaves(params, HEAD)
    assert 2 * count(stored) == count(params) and 2 * nbytes(stored) == nbytes(params)


def test_a_permutation_other_than_the_transpose(key):
    params = {
        "a": jnp.zeros((3, 4, 2)),
        "b": jnp.asarray(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)),
    }
    ties = [Tie("a", "b", transpose=(1, 2, 0), scale=2.0)]
    seen = untie_leaves(tie_leaves(params, ties), ties)
    np.testing.assert_array_equal(seen["a"], 2 * np.moveaxis(np.asarray(params["b"]), 0, 2))


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_ties_may_form_chains_in_any_order(key, order):
    params = {
        "a": jnp.zeros((2, 3)),
        "b": jnp.zeros((3, 2)),
        "c": jnp.asarray(np.eye(3, 2, dtype=np.float32)),
    }
    ties = [Tie("a", "b", transpose=True, scale=2.0), Tie("b", "c", scale=4.0)][order]
    stored = tie_leaves(params, ties)
    seen = untie_leaves(stored, ties)
    assert paths(stored) == ["c"]
    np.testing.assert_array_equal(seen["b"], 4 * params["c"])
    np.testing.assert_array_equal(seen["a"], 8 * params["c"].T)


def test_no_two_seen_leaves_share_an_array(key):
    params = {"a": jnp.zeros(3), "b": jnp.ones(3), "c": jnp.zeros(3)}
    seen = untie_leaves(tie_leaves(params, ties := [Tie("a", "b"), Tie("c", "b")]), ties)
    buffers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(seen)}
    assert len(buffers) == 3


SCALES = st.sampled_from([1.0, 0.5, -2.0, 4.0])  # powers of two: exact in every order


@st.composite
def tied_trees(draw):
    """Shapes by path, and the arguments of ties among them that may form chains."""
    roots = draw(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=3))
    shapes, ties = {f"root_{i}/w": tuple(shape) for i, shape in enumerate(roots)}, []
    for i in range(draw(st.integers(1, 5))):
        source = draw(st.sampled_from(list(shapes)))
        axes = tuple(draw(st.permutations(range(len(shapes[source])))))
        shapes[f"leaf_{i}/w"] = tuple(shapes[source][axis] for axis in axes)
        ties.append((f"leaf_{i}/w", source, axes, draw(SCALES)))
    return shapes, draw(st.permutations(ties))


@settings(max_examples=15, deadline=None)
@given(tied_trees())
def test_tie_leaves_undoes_untie_leaves_and_a_seen_tree_survives_both(shapes_and_ties):
    shapes, ties = shapes_and_ties
    ties = [Tie(to, source, transpose=axes, scale=scale) for to, source, axes, scale in ties]
    params = {
        path.removesuffix("/w"): {"w": jnp.arange(np.prod(shape), dtype=float).reshape(shape)}
        for path, shape in shapes.items()
    }
    stored = tie_leaves(params, ties)
    seen = untie_leaves(stored, ties)
    assert jax.tree.map(jnp.shape, seen) == jax.tree.map(jnp.shape, params)
    equal(tie_leaves(seen, ties), stored)
    equal(untie_leaves(seen, ties), seen)


def linen_tree(key):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids):
            x = nn.Embed(6, 8, name="embed")(ids)
            return nn.Dense(6, use_bias=False, name="head")(x)

    return Model().init(key, jnp.zeros(1, int)), "params/head/kernel", "params/embed/embedding"


def nnx_tree(key):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(6, 8, rngs=rngs)
            self.head = nnx.Linear(8, 6, use_bias=False, rngs=rngs)

    return nnx.state(Model(nnx.Rngs(key)), nnx.Param), "head/kernel", "embed/embedding"


def equinox_tree(key):
    class Model(eqx.Module):
        embed: eqx.nn.Embedding
        head: eqx.nn.Linear

    k1, k2 = jax.random.split(key)
    head = eqx.nn.Linear(8, 6, use_bias=False, key=k1)  # equinox stores (out, in)
    tree = eqx.filter(Model(eqx.nn.Embedding(6, 8, key=k2), head), eqx.is_array)
    return tree, "head/weight", "embed/weight"


def haiku_tree(key):
    def forward(ids):
        return hk.Linear(6, with_bias=False, name="head")(hk.Embed(6, 8, name="embed")(ids))

    tree = hk.transform(forward).init(key, jnp.zeros(1, int))
    return tree, "head/w", "embed/embeddings"


@pytest.mark.parametrize("make", [linen_tree, nnx_tree, equinox_tree, haiku_tree])
def test_trees_of_every_library_tie_and_come_back(make, key):
    params, head, table = make(key)
    transposed = leaves(params)[head].shape != leaves(params)[table].shape
    weights = tie([Tie(head, table, transpose=transposed)])
    stored, state = weights.init(params, key)
    seen = jax.jit(weights.view)(stored, state, 0)
    assert jax.tree.structure(seen) == jax.tree.structure(params)
    assert head not in leaves(stored) and count(params) == 2 * count(stored)
    expected = leaves(params)[table]
    np.testing.assert_array_equal(leaves(seen)[head], expected.T if transposed else expected)
    grads = jax.grad(lambda s: jnp.sum(leaves(weights.view(s, state, 0))[head]))(stored)
    np.testing.assert_array_equal(leaves(grads)[table], np.ones_like(expected))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("ties", [HEAD, T5], ids=["plain", "scaled"])
def test_dtypes_and_shapes_are_those_that_init_was_given(key, ties, dtype):
    params = model(dtype)
    stored, state = tie(ties).init(params, key)
    seen = jax.eval_shape(tie(ties).view, stored, state, 0)
    assert jax.tree.map(jax.typeof, params) == jax.tree.map(jax.typeof, untie_leaves(stored, ties))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), seen) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )


def test_eager_and_compiled_agree_bit_for_bit_and_init_has_an_abstract_twin(key):
    weights, params = tie(T5), model()
    stored, state = weights.init(params, key)
    equal(weights.view(stored, state, 0), jax.jit(weights.view)(stored, state, 0))
    abstract = jax.eval_shape(weights.init, params, key)
    assert abstract == jax.eval_shape(lambda: (stored, state))
    equal(weights.finalize(stored, state), weights.view(stored, state, 0))


def test_shapes_are_tied_without_any_array():
    shapes = jax.eval_shape(model)
    assert paths(tie_leaves(shapes, HEAD)) == ["embed/embedding", "mlp/0"]


def test_a_population_is_viewed_as_its_members_are(key):
    weights = tie(T5)
    stored, state = weights.init(model(), key)
    members = jax.tree.map(lambda x: jnp.asarray(np.stack([x, 2 * x, -x])), stored)
    seen = jax.jit(jax.vmap(lambda s: weights.view(s, state, 0)))(members)
    for factor, head in zip((1, 2, -1), seen["head"]["kernel"], strict=True):
        np.testing.assert_array_equal(
            head, factor * weights.view(stored, state, 0)["head"]["kernel"]
        )


def test_forward_and_reverse_mode_agree_with_the_linear_map(key):
    """The view is linear: its jvp is itself, and <view(t), c> = <t, vjp(c)>."""
    weights = tie(T5)
    stored, state = weights.init(model(), key)
    tangent = jax.tree.map(lambda x: jnp.round(8 * x), stored)
    seen, pushed = jax.jvp(lambda s: weights.view(s, state, 0), (stored,), (tangent,))
    equal(pushed, weights.view(tangent, state, 0))
    (pulled,) = jax.vjp(lambda s: weights.view(s, state, 0), stored)[1](seen)
    np.testing.assert_allclose(
        optax.tree.vdot(pushed, seen), optax.tree.vdot(tangent, pulled), rtol=1e-5
    )


def test_a_tie_stands_last_in_a_chain(key):
    weights = chain(first=identity(), tie=tie(HEAD))
    stored, state = weights.init(model(), key)
    equal(weights.view(stored, state, 0), untie_leaves(stored, HEAD))
    assert not weights.in_place


BAD = {
    "a path that is no leaf": ([Tie("head/kernle", "embed/embedding")], "no leaf at 'head/kernle'"),
    "an unknown source": ([Tie("head/kernel", "embedding")], "no leaf at 'embedding'"),
    "a whole subtree": ([Tie("head", "embed")], "no leaf at 'head'"),
    "unequal shapes": ([Tie("mlp/0", "embed/embedding")], r"\(8, 8\).*\(6, 8\).*one size"),
    "a forgotten transpose": (
        [Tie("head/kernel", "embed/embedding")],
        r"'head/kernel' has the shape \(8, 6\).*\(6, 8\).*transpose=True fits",
    ),
    "a needless transpose": (
        [Tie("twin", "embed/embedding", transpose=True)],
        "transpose=False fits",
    ),
    "axes that are no permutation": (
        [Tie("head/kernel", "embed/embedding", transpose=(1, 1))],
        r"does not permute the axes of the source, \(6, 8\)",
    ),
    "unequal dtypes": (
        [Tie("half", "embed/embedding")],
        r"'half' is bfloat16\[6,8\].*float32\[6,8\]. Cast",
    ),
    "a scale on integers": ([Tie("codes", "more_codes", scale=0.5)], "would round"),
    "a leaf tied to itself": ([Tie("twin", "twin")], "'twin' from 'twin' goes round"),
    "a circle": ([Tie("twin", "other"), Tie("other", "twin")], "goes round in a circle"),
    "a leaf tied twice": (
        [Tie("twin", "other"), Tie("twin", "embed/embedding")],
        "'twin' is tied twice, to 'other' and to 'embed/embedding'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_ties_are_refused_by_name(name, key):
    ties, message = BAD[name]
    params = model() | {
        "twin": jnp.zeros((6, 8)),
        "other": jnp.zeros((6, 8)),
        "half": jnp.zeros((6, 8), jnp.bfloat16),
        "codes": jnp.zeros(3, jnp.int32),
        "more_codes": jnp.zeros(3, jnp.int32),
    }
    with pytest.raises(ValueError, match=message):
        tie(ties).init(params, key)


def test_circles_and_double_ties_are_refused_before_any_tree_is_seen():
    for name in ("a leaf tied to itself", "a circle", "a leaf tied twice"):
        with pytest.raises(ValueError, match=BAD[name][1]):
            tie(BAD[name][0])


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_that_loses_the_source_is_refused(scale):
    with pytest.raises(ValueError, match="scale of 'a' must be finite and not zero"):
        Tie("a", "b", scale=scale)
