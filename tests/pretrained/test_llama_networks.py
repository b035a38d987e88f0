"""LLaMA through its three maps: random weights in each file's names, and real networks."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real
import references

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.models import LlamaConfig, empty_cache, generate, llama
from wlab.pretrained import from_hub, load, maps

CONFIG = LlamaConfig(layers=2, width=24, heads=6, kv_heads=3, ffn=20, vocab=17, context=8)
TOKENS = np.array([3, 1, 4, 1, 5])
SHAPES = {
    "embed": (17, 24),
    "norm_1": (24,),
    "norm_2": (24,),
    "q": (24, 24),
    "k": (12, 24),
    "v": (12, 24),
    "o": (24, 24),
    "gate": (20, 24),
    "up": (20, 24),
    "down": (24, 20),
    "norm": (24,),
    "head": (17, 24),
}
# The names of each file, written down by hand.
HUB = {
    "embed": "model.embed_tokens.weight",
    "norm_1": "model.layers.{i}.input_layernorm.weight",
    "norm_2": "model.layers.{i}.post_attention_layernorm.weight",
    "q": "model.layers.{i}.self_attn.q_proj.weight",
    "k": "model.layers.{i}.self_attn.k_proj.weight",
    "v": "model.layers.{i}.self_attn.v_proj.weight",
    "o": "model.layers.{i}.self_attn.o_proj.weight",
    "gate": "model.layers.{i}.mlp.gate_proj.weight",
    "up": "model.layers.{i}.mlp.up_proj.weight",
    "down": "model.layers.{i}.mlp.down_proj.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}
GGUF = {
    "embed": "token_embd.weight",
    "norm_1": "blk.{i}.attn_norm.weight",
    "norm_2": "blk.{i}.ffn_norm.weight",
    "q": "blk.{i}.attn_q.weight",
    "k": "blk.{i}.attn_k.weight",
    "v": "blk.{i}.attn_v.weight",
    "o": "blk.{i}.attn_output.weight",
    "gate": "blk.{i}.ffn_gate.weight",
    "up": "blk.{i}.ffn_up.weight",
    "down": "blk.{i}.ffn_down.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
}
LLAMA2C = {
    "embed": "token_embedding_table",
    "norm_1": "rms_att_weight",
    "norm_2": "rms_ffn_weight",
    "q": "wq",
    "k": "wk",
    "v": "wv",
    "o": "wo",
    "gate": "w1",
    "down": "w2",
    "up": "w3",
    "norm": "rms_final_weight",
    "head": "wcls",
}
PER_LAYER = set(SHAPES) - {"embed", "norm", "head"}


def random_arrays(names: dict[str, str], *, tied: bool) -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(0), {}
    for role, shape in SHAPES.items():
        stacked = role in PER_LAYER and "{i}" not in names[role]
        for i in range(2 if "{i}" in names[role] else 1):
            full = (2, *shape) if stacked else shape
            arrays[names[role].format(i=i)] = rng.normal(0.1, 0.4, full).astype(np.float32)
    if tied:
        del arrays[names["head"]]
    return arrays


def expected(arrays, names, *, tied: bool, interleaved: bool, tokens=TOKENS) -> np.ndarray:
    def weight(role: str, i: int) -> np.ndarray:
        name = names["embed" if tied and role == "head" else role]
        array = arrays[name.format(i=i)].astype(np.float64)
        return array[i] if role in PER_LAYER and "{i}" not in name else array

    return references.llama(weight, tokens, layers=2, heads=6, interleaved=interleaved)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["hub", "gguf", "llama2c"])
def test_each_files_weights_compute_what_numpy_does(kind, tied, tmp_path):
    names = {"hub": HUB, "gguf": GGUF, "llama2c": LLAMA2C}[kind]
    sizes = {"heads": 6, "kv_heads": 3, "tied": tied}
    name_map = {
        "hub": partial(maps.llama_hub, tied=tied),
        "gguf": partial(maps.llama_gguf, **sizes),
        "llama2c": partial(maps.llama2c, **sizes),
    }[kind](2)
    arrays = random_arrays(names, tied=tied)
    save_safetensors(tmp_path / "w.safetensors", arrays)
    model = llama(LlamaConfig(**{**vars(CONFIG), "tied": tied}))
    like = jax.eval_shape(model.init, jax.random.key(0))
    params = load(tmp_path / "w.safetensors", name_map, like).params
    found = model.apply(params, jnp.array(TOKENS)[None])[0]
    wanted = expected(arrays, names, tied=tied, interleaved=kind != "hub")
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


def config_json(**changes: object) -> str:
    sizes = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 20,
        "vocab_size": 17,
        "max_position_embeddings": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    return json.dumps(sizes | changes)


def test_a_folder_of_the_hub_is_a_network(tmp_path):
    arrays = random_arrays(HUB, tied=True)
    repeated = arrays | {HUB["head"]: arrays[HUB["embed"]]}
    save_safetensors(tmp_path / "model.safetensors", repeated)
    (tmp_path / "config.json").write_text(config_json())
    network = from_hub(tmp_path)
    found = network.model.apply(network.params, jnp.array(TOKENS)[None])[0]
    wanted = expected(arrays, HUB, tied=True, interleaved=False)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)
    (tmp_path / "config.json").write_text(config_json(rope_scaling={"factor": 8.0}))
    with pytest.raises(ValueError, match="rope_scaling"):
        from_hub(tmp_path)


def continued(name: str, prompt: str, steps: int) -> str:
    network = real.network(name)
    tokens, words = network.tokenizer.encode(prompt), network.tokenizer
    drawn = generate(
        network.model.apply,
        network.params,
        [tokens],
        empty_cache=partial(empty_cache, network.config),
        steps=steps,
        key=jax.random.key(0),
        temperature=0.0,
    )
    return words.decode([*tokens, *(int(row[0]) for row in drawn)])


@pytest.mark.long
def test_stories15m_tells_its_story():
    text = continued("stories15m", "Once upon a time", 36)
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "sunshine. One day, she saw a big, red ball in the sky."
    )


@pytest.mark.long
def test_smollm2_knows_the_capital_of_france():
    network = real.network("smollm2-135m")
    assert tree.count(network.params) == 134_515_008
    kinds = [a.encoding or a.dtype for a in open_source(_gguf()).arrays.values()]
    assert [kinds.count(kind) for kind in ("Q4_1", "Q8_0", "float32")] == [210, 1, 61]
    assert continued("smollm2-135m", "The capital of France is", 2).endswith("is Paris.")


def test_digits_are_read_one_by_one_and_bytes_survive():
    words = real.network("smollm2-135m").tokenizer
    assert len(words.encode("12345")) == 5
    for name in ("smollm2-135m", "stories15m"):
        words = real.network(name).tokenizer
        assert words.decode(words.encode("naïve 🙂 世界")) == "naïve 🙂 世界"


def _gguf():
    return real.folder("smollm2-135m") / "model.gguf"
