"""The encoder: who hears whom, where the norms stand, what the factors do."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import EncoderConfig, Model, encoder
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = EncoderConfig(layers=1, width=12, heads=3, vocab=17, context=8)
MODEL = encoder(CONFIG)
APPLY = jax.jit(MODEL.apply)
TOKENS = jnp.array([[1, 2, 3, 4], [16, 0, 7, 7]])


def test_a_block_without_parts_is_two_norms_of_the_embeddings(drawn: Draw):
    def norm(x: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
        centered = x - x.mean(-1, keepdims=True)
        return centered / x.std(-1, keepdims=True) * layer["scale"] + layer["bias"]

    params = drawn(MODEL)
    parts = [p for p in tree.paths(params) if "/attn/o/" in p or "/ffn/down/" in p]
    params = tree.replace(params, {p: 0 * tree.leaves(params)[p] for p in parts})
    stored, params = params, jax.tree.map(np.array, params)
    tables = [params[name]["embedding"] for name in ("embed", "position", "segment")]
    x = norm(tables[0][np.array(TOKENS)] + tables[1][None, :4] + tables[2][0], params["norm"])
    x = norm(norm(x, params["block_0"]["norm_1"]), params["block_0"]["norm_2"])
    states, pooled = APPLY(stored, TOKENS)
    np.testing.assert_allclose(states, x, rtol=1e-4, atol=1e-4)
    pool = params["pool"]
    np.testing.assert_allclose(pooled, np.tanh(x[:, 0] @ pool["kernel"] + pool["bias"]), atol=1e-4)


def test_the_last_norm_decides_the_mean_and_deviation_of_the_states(drawn: Draw):
    ones, zeros = np.ones(12, np.float32), np.zeros(12, np.float32)
    last = {"block_0/norm_2/scale": ones, "block_0/norm_2/bias": zeros}
    states, _ = APPLY(tree.replace(drawn(MODEL), last), TOKENS)
    np.testing.assert_allclose(states.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(states, -1), 1, atol=1e-4)


def test_every_position_hears_every_other(drawn: Draw):
    params = drawn(MODEL)

    def heard(table: jax.Array) -> jax.Array:
        seen = tree.replace(params, {"embed/embedding": table})
        return jnp.square(MODEL.apply(seen, jnp.arange(4)[None]).states[0]) @ jnp.arange(12.0)

    sensitivity = jax.jit(jax.jacobian(heard))(params["embed"]["embedding"])
    assert np.all(np.abs(sensitivity).sum(-1)[:, :4] > 0)


def test_padding_is_not_heard(drawn: Draw):
    params, mask = drawn(MODEL), jnp.array([[True, True, True, False]])
    one, other = (
        APPLY(params, jnp.array([[1, 2, 3, last]]), mask=mask).states[:, :3] for last in (4, 9)
    )
    np.testing.assert_array_equal(one, other)
    shorter = APPLY(params, jnp.array([[1, 2, 3]])).states
    np.testing.assert_allclose(one, shorter, rtol=1e-4, atol=1e-4)


def test_segments_are_told_apart(drawn: Draw):
    params = drawn(MODEL)
    plain = APPLY(params, TOKENS).states
    first, second = (APPLY(params, TOKENS, types=jnp.full((2, 4), t)).states for t in (0, 1))
    np.testing.assert_allclose(plain, first, rtol=1e-5, atol=1e-6)
    assert np.abs(plain - second).max() > 0.1


def test_factorized_embeddings_are_projected(drawn: Draw):
    config = EncoderConfig(layers=1, width=12, heads=3, vocab=17, context=8, embed_width=4)
    params = drawn(encoder(config))
    shapes = {path: leaf.shape for path, leaf in tree.leaves(params).items()}
    assert shapes["embed/embedding"] == (17, 4)
    assert shapes["project/kernel"] == (4, 12)
    states = jax.eval_shape(encoder(config).apply, params, TOKENS).states
    assert states.shape == (2, 4, 12)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"width \(10\) must be a multiple of heads \(3\)"):
        EncoderConfig(layers=1, width=10, heads=3, vocab=5, context=4)
