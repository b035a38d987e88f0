"""Caches in few bits: against keys and values rounded before attention, bounds, and bytes."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.models import (
    LlamaConfig,
    Model,
    TransformerConfig,
    empty_cache,
    generate,
    llama,
    transformer,
)
from wlab.models.block import attend
from wlab.models.entries import put, values_of
from wlab.quantization import dequantize, int4, int8, nvfp4, quantize
from wlab.transform import Params

Draw = Callable[[Model], Params]

LLAMA = LlamaConfig(layers=2, width=16, heads=4, kv_heads=2, ffn=20, vocab=17, context=12)
GPT = TransformerConfig(layers=1, width=16, heads=2, vocab=17, context=12)
INT8, INT4 = int8(axis=-1, scale_dtype="float16"), int4(axis=-1, group_size=2)
TOKENS = np.array([[1, 2, 3, 4, 5, 6], [10, 0, 7, 7, 1, 2]])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(x: np.ndarray, steps: int, size: int) -> np.ndarray:
    """Each group of a token and head to the nearest of even steps up to its largest entry."""
    groups = x.astype(np.float64).reshape(*x.shape[:-1], -1, size)
    step = np.abs(groups).max(-1, keepdims=True) / steps
    return (np.rint(groups / step) * step).reshape(x.shape)


@pytest.mark.parametrize(("format", "steps", "size"), [(INT8, 127, 4), (INT4, 7, 2)])
def test_each_token_and_head_is_rounded_by_itself(format, steps, size):
    entries, new = empty_cache(LLAMA, 2, length=5, format=format).k[0], normal(2, 3, 2, 4)
    read = jax.jit(lambda entries, new: values_of(put(entries, new, jnp.int32(1))))
    found = np.asarray(read(entries, jnp.asarray(new)))
    expected = rounded(new, steps, size)  # but for the rounding of the scales
    np.testing.assert_allclose(found[:, 1:4], expected, rtol=2**-10)
    assert not found[:, [0, 4]].any()


@pytest.mark.parametrize(
    ("make", "config", "module"),
    [(llama, LLAMA, "wlab.models.llama"), (transformer, GPT, "wlab.models.block")],
    ids=["llama", "gpt"],
)
def test_reading_is_attention_over_rounded_keys_and_values_at_once_or_in_parts(
    make, config, module, drawn: Draw, monkeypatch
):
    model, tokens = make(config), jnp.asarray(TOKENS)
    params = drawn(model)
    plain = jax.jit(model.apply)(params, tokens)
    cache, parts = empty_cache(config, 2, length=6, format=INT4), []
    step = jax.jit(model.apply)
    for part in (tokens[:, :3], tokens[:, 3:]):
        logits, cache = step(params, part, cache=cache)
        parts.append(logits)

    def extended(past, k, v):
        return *(dequantize(quantize(each, INT4)) for each in (k, v)), (k, v)

    monkeypatch.setattr(sys.modules[module], "extended", extended)
    twin = jax.jit(lambda params, tokens: model.apply(params, tokens))(params, tokens)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), twin, rtol=1e-4, atol=1e-4)
    assert np.abs(twin - plain).max() > 1e-2
    assert cache.length == 6


@pytest.mark.parametrize(("format", "steps"), [(INT8, 127), (int4(axis=-1), 7)])
def test_attention_is_off_by_no_more_than_the_steps_allow(format, steps):
    q, k, v = (jnp.asarray(normal(1, 6, 2, 8, seed=seed)) for seed in range(3))
    seen = jnp.asarray(np.tri(6, dtype=bool))[None]

    config = LlamaConfig(layers=1, width=16, heads=2, kv_heads=2, ffn=4, vocab=3, context=6)
    [room] = empty_cache(config, 1, format=format).k

    def both(q, k, v):
        keys, values = (values_of(put(room, each, jnp.int32(0))) for each in (k, v))
        return attend(q, k, v, seen), attend(q, keys, values, seen)

    exact, found = jax.jit(both)(q, k, v)
    half = 0.5 / steps * 1.001
    most = np.abs(k).max(-1)[0]  # of each token and head
    logit = (np.abs(q).sum(-1)[0].max(0) * most.max(0) * half / math.sqrt(8)).max()
    # A logit off by δ changes a weight by e^±2δ at most, so all of them by e^2δ − 1 together.
    bound = np.abs(v).max() * (half + math.expm1(2 * logit))
    off = np.abs(np.asarray(found) - np.asarray(exact)).max()
    assert 0 < off <= bound


def test_text_from_a_cache_of_eight_bits_is_that_from_a_plain_one(drawn: Draw):
    config = replace(LLAMA, layers=1)
    model, prompts = llama(config), [[1], [5]]  # one shape, one program
    params = drawn(model)

    def text(**options) -> np.ndarray:
        empty = partial(empty_cache, config, **options)
        key = jax.random.key(1)
        drawn = generate(
            model.apply, params, prompts, empty_cache=empty, steps=7, key=key, temperature=0.0
        )
        return np.stack(list(drawn), 1)

    np.testing.assert_array_equal(text(format=INT8), text())


@pytest.mark.parametrize(
    ("format", "a_head"),
    [
        (INT8, 48 + 2),  # a byte an entry and a scale of two
        (int8(axis=-1), 48 + 4),
        (int4(axis=-1, group_size=16), 24 + 3 * 4),
        (int4(axis=-1, group_size=32, symmetric=False), 24 + 2 * (4 + 1)),  # a short last group
        (None, 48 * 4),
    ],
)
def test_bytes_are_codes_and_scales_of_each_token_and_head(format, a_head):
    config = LlamaConfig(layers=6, width=288, heads=6, kv_heads=6, ffn=8, vocab=9, context=256)
    cache = jax.eval_shape(partial(empty_cache, config, 3, format=format))
    found = sum(part.size * part.dtype.itemsize for part in jax.tree.leaves((cache.k, cache.v)))
    assert found == 2 * 6 * 3 * 256 * 6 * a_head


def test_half_precision_and_the_kind_of_a_cache_stay():
    model = llama(LLAMA)
    params = jax.eval_shape(model.init, jax.random.key(0))
    halves = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.bfloat16), params)
    cache = jax.eval_shape(
        partial(empty_cache, LLAMA, 2, length=8, dtype=jnp.bfloat16, format=INT8)
    )
    _, after = jax.eval_shape(model.apply, halves, jnp.asarray(TOKENS), cache=cache)
    assert jax.tree.structure(after) == jax.tree.structure(cache)
    assert [(s.shape, s.dtype) for s in jax.tree.leaves(after)] == [
        (s.shape, s.dtype) for s in jax.tree.leaves(cache)
    ]


@pytest.mark.parametrize("format", [int8(), int8(axis=None), replace(nvfp4, axis=-1)], ids=str)
def test_scales_over_more_than_a_token_and_head_are_refused(format):
    with pytest.raises(ValueError, match="give a format with axis=-1"):
        empty_cache(LLAMA, 2, format=format)
