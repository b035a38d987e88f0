"""The LLaMA decoder against a forward pass in NumPy with complex rotations, and its cache."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import LlamaConfig, Model, empty_cache, llama
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = LlamaConfig(layers=2, width=12, heads=6, kv_heads=3, ffn=20, vocab=17, context=8)
WIDE = LlamaConfig(
    layers=1, width=16, heads=2, kv_heads=1, ffn=8, vocab=11, context=8, tied=False, rope_base=50.0
)
QWEN = replace(WIDE, kv_heads=2, head_size=10, qkv_bias=True, qk_norm=True, tied=True)
SLOWER = replace(WIDE, rope_factors=(1.0, 2.5, 8.0, 32.0))
TOKENS = np.array([[1, 2, 3, 4, 5, 6], [10, 0, 7, 7, 1, 2]])


def norm(x: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def turned(x: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """One head of one sequence: pairs as complex numbers, times e^{iθ}."""
    (time, size), base, layout = x.shape, config.rope_base, config.rotary
    a, b = (x[:, : size // 2], x[:, size // 2 :]) if layout == "halves" else (x[:, ::2], x[:, 1::2])
    turns = base ** (-2 * np.arange(size // 2) / size) / np.array(config.rope_factors or 1.0)
    angle = np.outer(np.arange(time), turns)
    z = (a + 1j * b) * np.exp(1j * angle)
    if layout == "halves":
        return np.concatenate([z.real, z.imag], -1)
    return np.stack([z.real, z.imag], -1).reshape(time, size)


def attention(h: np.ndarray, attn: dict, config: LlamaConfig) -> np.ndarray:
    size, group = config.size, config.heads // config.kv_heads
    q, k, v = (h @ attn[name]["kernel"] + attn[name].get("bias", 0) for name in "qkv")
    scales = [attn[f"{name}_norm"]["scale"] if config.qk_norm else None for name in "qk"]
    out = np.zeros((len(h), config.heads * size))
    for head in range(config.heads):
        mine = slice(head * size, (head + 1) * size)
        shared = slice(head // group * size, (head // group + 1) * size)
        qh, kh = q[:, mine], k[:, shared]
        if config.qk_norm:
            qh, kh = (norm(x, s, config.epsilon) for x, s in zip((qh, kh), scales, strict=True))
        qh, kh = turned(qh, config), turned(kh, config)
        for t in range(len(h)):
            scores = np.exp(kh[: t + 1] @ qh[t] / np.sqrt(size))
            out[t, mine] = scores @ v[: t + 1, shared] / scores.sum()
    return out @ attn["o"]["kernel"]


def forward(params: Params, tokens: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """The logits of one sequence."""
    x = params["embed"]["embedding"][tokens]
    for i in range(config.layers):
        block = params[f"block_{i}"]
        x = x + attention(norm(x, block["norm_1"]["scale"], config.epsilon), block["attn"], config)
        h = norm(x, block["norm_2"]["scale"], config.epsilon)
        gate = h @ block["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ block["up"]["kernel"])) @ block["down"]["kernel"]
    x = norm(x, params["norm"]["scale"], config.epsilon)
    head = params["embed"]["embedding"].T if config.tied else params["head"]["kernel"]
    return x @ head


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, rotary="interleaved"), WIDE, QWEN, SLOWER]
)
def test_the_decoder_computes_what_numpy_does(config: LlamaConfig, drawn: Draw):
    model = llama(config)
    params = drawn(model)
    exact = jax.tree.map(np.float64, params)
    expected = [forward(exact, tokens, config) for tokens in TOKENS]
    np.testing.assert_allclose(
        model.apply(params, jnp.array(TOKENS)), expected, rtol=2e-3, atol=2e-4
    )


@pytest.mark.parametrize("config", [CONFIG, QWEN, replace(CONFIG, window=2)])
def test_reading_on_from_a_cache_equals_reading_at_once(config: LlamaConfig, drawn: Draw):
    model = llama(config)
    params, tokens = drawn(model), jnp.array(TOKENS)
    at_once = model.apply(params, tokens)
    cache, parts = empty_cache(config, 2, length=7), []
    step = jax.jit(model.apply)
    for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        logits, cache = step(params, part, cache=cache)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), at_once, rtol=1e-4, atol=1e-4)
    assert cache.length == 6


def test_padding_at_the_start_of_a_row_is_never_seen(drawn: Draw):
    model = llama(CONFIG)
    params = drawn(model)
    short = jnp.array(TOKENS[1:, :3])
    alone, _ = model.apply(params, short, cache=empty_cache(CONFIG, 1))
    padded = jnp.array([TOKENS[0, :5], [9, 9, *TOKENS[1, :3]]])
    cache = empty_cache(CONFIG, 2, pads=jnp.array([0, 2]))
    together, _ = model.apply(params, padded, cache=cache)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[1, 2:], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((6, 288, 6, 6, 768, 32_000, True), 15_191_712),  # stories15M
        ((30, 576, 9, 3, 1536, 49_152, True), 134_515_008),  # SmolLM2-135M
        ((22, 2048, 32, 4, 5632, 32_000, False), 1_100_048_384),  # TinyLlama
        ((32, 4096, 32, 32, 11_008, 32_000, False), 6_738_415_616),  # LLaMA-2 7B
        ((32, 4096, 32, 8, 14_336, 128_256, False), 8_030_261_248),  # LLaMA-3 8B
        ((16, 2048, 32, 8, 8192, 128_256, True), 1_235_814_400),  # LLaMA-3.2 1B
        ((32, 4096, 32, 8, 14_336, 32_000, False), 7_241_732_096),  # Mistral 7B
        ((24, 896, 14, 2, 4864, 151_936, True, {"qkv_bias": True}), 494_032_768),  # Qwen2.5 0.5B
        (
            (28, 1024, 16, 8, 3072, 151_936, True, {"head_size": 128, "qk_norm": True}),
            596_049_920,  # Qwen3 0.6B
        ),
    ],
)
def test_published_totals(sizes: tuple, count: int):
    layers, width, heads, kv_heads, ffn, vocab, tied, *more = sizes
    config = LlamaConfig(
        layers, width, heads, kv_heads, ffn, vocab, context=2048, tied=tied, **dict(*more)
    )
    assert tree.count(jax.eval_shape(llama(config).init, jax.random.key(0))) == count


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 5}, "width .12. must be a multiple of heads .5."),
        ({"kv_heads": 4}, "heads .6. must be a multiple of kv_heads .4."),
        ({"rope_factors": (1.0, 2.0)}, "rope_factors has 2 numbers, a head has 1 pairs"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict, said: str):
    with pytest.raises(ValueError, match=said):
        replace(CONFIG, **change)
