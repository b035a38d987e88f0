"""The decoder with learned positions reads on from a cache, and shares what others tie."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from wlab import tree
from wlab.models import (
    EncoderConfig,
    Model,
    TransformerConfig,
    empty_cache,
    encoder,
    generate,
    transformer,
)
from wlab.models.layers import activation_of
from wlab.transform import Params
from wlab.tying import Tie, share, tie_leaves, untie_leaves

Draw = Callable[[Model], Params]

CONFIG = TransformerConfig(layers=2, width=12, heads=3, vocab=17, context=8, tied=True)
MODEL = transformer(CONFIG)
APPLY = jax.jit(MODEL.apply)
TOKENS = np.array([[1, 2, 3, 4, 5, 6], [10, 0, 7, 7, 1, 2]])


def test_reading_on_from_a_cache_equals_reading_at_once(drawn: Draw):
    params, tokens = drawn(MODEL), jnp.array(TOKENS)
    at_once = APPLY(params, tokens)
    cache, parts = empty_cache(CONFIG, 2, length=7), []
    for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        logits, cache = APPLY(params, part, cache=cache)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), at_once, rtol=1e-4, atol=1e-4)
    assert cache.length == 6


def test_padding_at_the_start_of_a_row_takes_no_place_and_is_never_seen(drawn: Draw):
    params = drawn(MODEL)
    alone = APPLY(params, jnp.array(TOKENS[1:, :3]))
    padded = jnp.array([TOKENS[0, :5], [9, 9, *TOKENS[1, :3]]])
    cache = empty_cache(CONFIG, 2, pads=jnp.array([0, 2]))
    together, _ = APPLY(params, padded, cache=cache)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[1, 2:], alone[0], rtol=1e-4, atol=1e-5)


def texts(params: Params, prompts: list[list[int]], steps: int) -> np.ndarray:
    drawn = generate(
        MODEL.apply,
        params,
        prompts,
        empty_cache=partial(empty_cache, CONFIG),
        steps=steps,
        key=jax.random.key(1),
        temperature=0.0,
    )
    return np.stack(list(drawn), axis=1)


def test_rows_of_unequal_length_go_on_as_the_plain_model_would(drawn: Draw):
    params, prompts = drawn(MODEL), [[1, 2, 3, 4, 5], [7], [9, 3]]
    for prompt, row in zip(prompts, texts(params, prompts, 3), strict=True):
        tokens = jnp.array([*prompt, *row, *[0] * 8])[None, :8]  # one shape, compiled once
        ends = slice(len(prompt) - 1, len(prompt) + 2)
        np.testing.assert_array_equal(APPLY(params, tokens)[0, ends].argmax(-1), row)


def test_half_precision_stays_half(drawn: Draw):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), drawn(MODEL))
    cache = empty_cache(CONFIG, 2, dtype=jnp.bfloat16)
    logits, cache = jax.eval_shape(MODEL.apply, half, jnp.array(TOKENS), cache=cache)
    assert {x.dtype for x in (logits, *cache.k, *cache.v)} == {jnp.dtype(jnp.bfloat16)}


def test_a_cache_beyond_the_last_position_is_refused():
    params = jax.eval_shape(MODEL.init, jax.random.key(0))
    with pytest.raises(ValueError, match="room for 9 tokens, the model's context is 8"):
        next(generate(
            MODEL.apply,
            params,
            [[1, 2, 3]],
            empty_cache=partial(empty_cache, CONFIG),
            steps=7,
            key=jax.random.key(0),
        ))  # fmt: skip


def same_leaves(model: Model, stored: Params) -> Params:
    """The leaves of a tied tree, which must be all that the model stores, without its holes."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert tree.paths(stored) == tree.paths(shapes)
    return tree.replace(shapes, tree.leaves(stored))


def test_a_tied_decoder_is_the_untied_one_with_its_head_tied(drawn: Draw):
    untied = transformer(replace(CONFIG, tied=False))
    ties = [Tie("head/kernel", "embed/embedding", transpose=True)]
    stored = tie_leaves(drawn(untied), ties)
    wanted = untied.apply(untie_leaves(stored, ties), jnp.array(TOKENS))
    found = APPLY(same_leaves(MODEL, stored), jnp.array(TOKENS))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_shared_encoder_is_the_other_with_all_blocks_shared(drawn: Draw):
    config = EncoderConfig(layers=3, width=12, heads=3, vocab=17, context=8, embed_width=4)
    plain, shared = encoder(config), encoder(replace(config, shared=True))
    ties = share(jax.eval_shape(plain.init, jax.random.key(0)), r"block_(\d+)/.*")
    stored = tie_leaves(drawn(plain), ties)
    wanted = plain.apply(untie_leaves(stored, ties), jnp.array(TOKENS)).states
    found = shared.apply(same_leaves(shared, stored), jnp.array(TOKENS)).states
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_published_totals_of_what_is_stored():
    gpt2 = TransformerConfig(12, 768, 12, vocab=50_257, context=1024, tied=True)
    albert = EncoderConfig(12, 768, 12, vocab=30_000, context=512, embed_width=128, shared=True)
    for model, count in ((transformer(gpt2), 124_439_808), (encoder(albert), 11_683_584)):
        assert tree.count(jax.eval_shape(model.init, jax.random.key(0))) == count


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", lambda x: x * (x > 0)),
        ("gelu", lambda x: x * (1 + erf(x / np.sqrt(2))) / 2),
        ("gelu_tanh", lambda x: x / (1 + np.exp(-np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_activations_are_what_their_names_say(name: str, expected: Callable):
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    np.testing.assert_allclose(activation_of(name)(jnp.array(x)), expected(x), atol=1e-6)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match=r"activation must be one of .*'gelu'.*, got 'gelo'"):
        activation_of("gelo")
