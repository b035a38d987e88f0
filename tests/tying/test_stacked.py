"""Sharing along the layer axis of a scanned stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.tree import count
from wlab.tying import share_stacked

RULES = [("blocks/attn", 4), ("blocks/ffn", 2), (".*", None)]


def stack():
    attn, ffn = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)
    return {
        "blocks": {"attn": jnp.asarray(attn), "ffn": jnp.asarray(ffn)},
        "embed": jnp.ones((5, 3)),
    }


def test_neighbours_are_seen_as_the_first_of_their_run(key):
    params, weights = stack(), share_stacked(RULES)
    stored, state = weights.init(params, key)
    seen = weights.view(stored, state, 0)
    blocks = params["blocks"]
    np.testing.assert_array_equal(seen["blocks"]["attn"], blocks["attn"][np.zeros(4, int)])
    np.testing.assert_array_equal(seen["blocks"]["ffn"], blocks["ffn"][np.array([0, 0, 2, 2])])
    np.testing.assert_array_equal(seen["embed"], params["embed"])
    assert count(params) - count(stored) == 3 * 9 + 2 * 9


def test_a_scan_over_the_view_has_the_gradient_of_a_loop_over_the_stored_layers(key):
    weights = share_stacked(RULES)
    stored, state = weights.init(stack(), key)

    def layer(x, w):
        return x + jnp.tanh(x @ w["attn"]) @ w["ffn"], None

    def scanned(stored):
        seen = weights.view(stored, state, 0)
        return jax.lax.scan(layer, seen["embed"], seen["blocks"])[0].sum()

    def looped(stored):
        x, blocks = stored["embed"], stored["blocks"]
        for i in range(4):
            x, _ = layer(x, {"attn": blocks["attn"][0], "ffn": blocks["ffn"][i // 2]})
        return x.sum()

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        jax.jit(jax.grad(scanned))(stored),
        jax.jit(jax.grad(looped))(stored),
    )


def test_shapes_and_populations_work_as_arrays_do(key):
    weights, params = share_stacked(RULES), stack()
    stored, state = weights.init(params, key)
    assert jax.eval_shape(weights.init, params, key)[0] == jax.eval_shape(lambda: stored)
    two = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), stored)
    seen = jax.vmap(lambda s: weights.view(s, state, 0))(two)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[1], 2 * b),
        seen,
        weights.view(stored, state, 0),
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("blocks/.*", 3), (".*", None)], r"'blocks/attn' is float32\[4,3,3\].*multiple of 3"),
        ([("blocks/.*", 0), (".*", None)], "multiple of 0"),
        ([("blocks/.*", -2), (".*", None)], "multiple of -2"),
        ([("blocks/.*", 2)], "no rule matches leaf 'embed'"),
        ([("layers/.*", 2), (".*", None)], "'layers/.*' matches no leaf"),
    ],
)
def test_bad_stacked_sharing_is_refused_by_name(rules, message, key):
    with pytest.raises(ValueError, match=message):
        share_stacked(rules).init(stack(), key)
