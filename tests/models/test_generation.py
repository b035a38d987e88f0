"""Drawing tokens: closed forms of temperature and nucleus, batches against single rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.models import LlamaConfig, empty_cache, generate, llama, make_generate, sample

CONFIG = LlamaConfig(layers=1, width=8, heads=2, kv_heads=1, ffn=12, vocab=13, context=16)
PROBABILITIES = np.array([0.1, 0.4, 0.3, 0.2])


def frequencies(n: int = 20_000, **options: float) -> np.ndarray:
    logits = jnp.broadcast_to(jnp.log(jnp.array(PROBABILITIES, jnp.float32)), (n, 4))
    drawn = np.asarray(sample(logits, jax.random.key(0), **options))
    return np.bincount(drawn, minlength=4) / n


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        ({"top_p": 0.6}, np.array([0, 0.4, 0.3, 0]) / 0.7),  # 0.4 < 0.6 ≤ 0.4 + 0.3
        ({"top_p": 1e-6}, np.array([0, 1, 0, 0])),
        ({"temperature": 0.0}, np.array([0, 1, 0, 0])),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(options: dict, expected: np.ndarray):
    deviation = np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(frequencies(**options) - expected) <= 4.5 * deviation).all()
    assert (frequencies(**options)[expected == 0] == 0).all()


def test_a_key_draws_what_it_draws_elsewhere_in_jax():
    logits, key = jax.random.normal(jax.random.key(4), (50, 13)), jax.random.key(5)
    expected = jax.random.categorical(key, logits / 0.7)
    np.testing.assert_array_equal(sample(logits, key, temperature=0.7), expected)


def texts(prompts: list[list[int]], **options: float) -> np.ndarray:
    model = llama(CONFIG)
    params = model.init(jax.random.key(3))
    drawn = generate(
        model.apply,
        params,
        prompts,
        empty_cache=partial(empty_cache, CONFIG),
        steps=6,
        key=jax.random.key(1),
        **options,
    )
    return np.stack(list(drawn), axis=1)


def test_rows_of_unequal_length_go_on_as_if_alone():
    prompts = [[1, 2, 3, 4, 5], [7], [9, 3]]
    together = texts(prompts, temperature=0.0)
    for prompt, row in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(texts([prompt], temperature=0.0)[0], row)


def test_a_key_gives_the_same_text_again():
    prompts = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(texts(prompts, top_p=0.9), texts(prompts, top_p=0.9))


def test_greedy_text_is_what_the_plain_model_finds_likeliest():
    model = llama(CONFIG)
    tokens = np.array([[5, 6, *texts([[5, 6]], temperature=0.0)[0]]])
    logits = model.apply(model.init(jax.random.key(3)), jnp.array(tokens))
    np.testing.assert_array_equal(logits[0, 1:-1].argmax(-1), tokens[0, 2:])


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([[1], []], {}, "each prompt needs a token"),
        ([], {}, "each prompt needs a token"),
        ([[1]], {"temperature": -1.0}, "temperature must be 0 or more"),
        ([[1]], {"top_p": 0.0}, "top_p must be in"),
    ],
)
def test_misuse_is_named(prompts: list, options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        texts(prompts, **options)


def test_what_is_built_once_is_compiled_once_and_draws_the_same(caplog):
    model, options = llama(CONFIG), {"temperature": 0.8, "top_p": 0.9}
    draw = make_generate(model.apply, empty_cache=partial(empty_cache, CONFIG), **options)
    params, key = model.init(jax.random.key(3)), jax.random.key(1)
    prompts = [[1, 2], [3, 4]]
    first = np.stack([*draw(params, prompts, steps=6, key=key)], axis=1)
    np.testing.assert_array_equal(first, texts(prompts, **options))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        again = np.stack([*draw(params, prompts[::-1], steps=6, key=key)], axis=1)
    assert again.shape == (2, 6) and "Finished XLA compilation" not in caplog.text
