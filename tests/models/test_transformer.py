"""The decoder against a forward pass in NumPy, and its causality by gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import Model, TransformerConfig, transformer
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = TransformerConfig(layers=2, width=12, heads=3, vocab=17, context=8)
TOKENS = jnp.array([[1, 2, 3, 4, 5, 6], [16, 0, 7, 7, 1, 2]])


def norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Causal attention of one sequence, one head and one query at a time."""
    out, size = np.zeros_like(v), v.shape[-1] // heads
    for head in range(heads):
        at = slice(head * size, (head + 1) * size)
        for t in range(len(q)):
            scores = np.exp(k[: t + 1, at] @ q[t, at] / np.sqrt(size))
            out[t, at] = scores @ v[: t + 1, at] / scores.sum()
    return out


def forward(params: Params, tokens: np.ndarray, config: TransformerConfig) -> np.ndarray:
    """The logits of one sequence."""

    def linear(layer: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    x = params["embed"]["embedding"][tokens] + params["position"]["embedding"][: len(tokens)]
    for i in range(config.layers):
        block = params[f"block_{i}"]
        h, attn, ffn = norm(x, **block["norm_1"]), block["attn"], block["ffn"]
        q, k, v = (linear(attn[name], h) for name in "qkv")
        x = x + linear(attn["o"], attention(q, k, v, config.heads))
        x = x + linear(ffn["down"], gelu(linear(ffn["up"], norm(x, **block["norm_2"]))))
    return norm(x, **params["norm"]) @ params["head"]["kernel"]


def test_the_decoder_computes_what_numpy_does(drawn: Draw):
    model = transformer(CONFIG)
    params = drawn(model)
    exact = jax.tree.map(np.float64, params)
    expected = [forward(exact, tokens, CONFIG) for tokens in np.array(TOKENS)]
    found = jax.jit(model.apply)(params, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_no_position_hears_of_later_ones(drawn: Draw):
    config = TransformerConfig(layers=2, width=12, heads=3, vocab=6, context=6)
    model = transformer(config)
    params = drawn(model)

    def logits(embedding: jax.Array) -> jax.Array:
        seen = tree.replace(params, {"embed/embedding": embedding})
        return model.apply(seen, jnp.arange(6)[None])[0].sum(-1)

    # Token t stands at position t alone, so row t of the table is input t.
    hears = np.abs(jax.jit(jax.jacobian(logits))(params["embed"]["embedding"])).sum(-1) > 0
    np.testing.assert_array_equal(hears, np.tri(6, dtype=bool))


def test_a_sequence_may_be_shorter_but_not_longer_than_the_context(drawn: Draw):
    model = transformer(CONFIG)
    params = drawn(model)
    short = jax.eval_shape(model.apply, params, TOKENS[:, :1])
    assert short.shape == (2, 1, 17)
    with pytest.raises(ValueError, match="9 tokens, the model's context is 8"):
        jax.eval_shape(model.apply, params, jnp.zeros((1, 9), int))


def test_a_token_outside_the_vocabulary_shows_as_nan(drawn: Draw):
    model = transformer(CONFIG)
    out = jax.jit(model.apply)(drawn(model), jnp.array([[1, 16], [1, 17]]))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


def test_without_biases_only_kernels_scales_and_tables_are_left():
    config = TransformerConfig(layers=1, width=8, heads=2, vocab=5, context=4, biases=False, ffn=6)
    shapes = tree.leaves(jax.eval_shape(transformer(config).init, jax.random.key(0)))
    assert {path.split("/")[-1] for path in shapes} == {"kernel", "scale", "embedding"}
    assert shapes["block_0/ffn/up/kernel"].shape == (8, 6)


def test_kernels_that_write_to_the_stream_shrink_with_depth(key: jax.Array):
    config = TransformerConfig(layers=1, width=64, heads=2, vocab=50, context=8)
    params = tree.leaves(jax.jit(transformer(config).init)(key))
    deviations = {path: float(np.std(leaf)) for path, leaf in params.items()}
    np.testing.assert_allclose(deviations["block_0/attn/o/kernel"], 0.02 / np.sqrt(2), rtol=0.05)
    np.testing.assert_allclose(deviations["block_0/ffn/down/kernel"], 0.02 / np.sqrt(2), rtol=0.05)
    np.testing.assert_allclose(deviations["block_0/ffn/up/kernel"], 0.02, rtol=0.05)
    np.testing.assert_allclose(deviations["embed/embedding"], 0.02, rtol=0.05)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"width \(10\) must be a multiple of heads \(3\)"):
        TransformerConfig(layers=1, width=10, heads=3, vocab=5, context=4)
