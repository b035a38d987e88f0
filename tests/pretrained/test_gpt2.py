"""GPT-2 through its map: random weights in the hub's names against NumPy, and back; its text."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import softmax

from wlab import tree
from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.models import TransformerConfig, empty_cache, generate, transformer
from wlab.pretrained import export, load, text
from wlab.pretrained.maps.gpt2 import gpt2 as gpt2_map
from wlab.pretrained.networks.hub_text import gpt2
from wlab.pretrained.networks.network import Network, filled

SIZES = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 12,
    "n_head": 3,
    "n_inner": 20,
    "n_positions": 8,
    "vocab_size": 17,
    "layer_norm_epsilon": 1e-2,
    "activation_function": "gelu_new",
}
TOKENS = np.array([3, 1, 4, 1, 5])


def random_arrays(prefix: str) -> dict[str, np.ndarray]:
    """Under the names and in the shapes of `GPT2LMHeadModel`, written down by hand."""
    rng, width, ffn = np.random.default_rng(0), 12, 20
    shapes = {"wte.weight": (17, width), "wpe.weight": (8, width)}
    for i in range(2):
        for name, (inputs, outputs) in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, ffn),
            "mlp.c_proj": (ffn, width),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": (inputs, outputs), f"h.{i}.{name}.bias": (outputs,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{name}.weight": (width,), f"h.{i}.{name}.bias": (width,)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    return {prefix + n: rng.normal(0.1, 0.4, s).astype(np.float32) for n, s in shapes.items()}


def forward(w: dict[str, np.ndarray], tokens: np.ndarray, head: np.ndarray) -> np.ndarray:
    """The logits of one sequence, by the names of the hub (Radford et al. 2019)."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    future = np.triu(np.full((len(x), len(x)), -np.inf), 1)
    for i in range(2):
        fused = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = fused.reshape(len(x), 3, 3, 4).transpose(1, 2, 0, 3)
        mixed = softmax(q @ k.transpose(0, 2, 1) / 2 + future) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(x.shape), f"h.{i}.attn.c_proj")
        h = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        h = h / (1 + np.exp(-np.sqrt(8 / np.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ head.T


def opened(folder, arrays: dict[str, np.ndarray]) -> Source:
    save_safetensors(folder / "model.safetensors", arrays)
    return open_source(folder / "model.safetensors")


def loaded(source: Source, **changes: object) -> Network:
    config, model, name_map = gpt2(SIZES | changes, source)
    return filled(model, config, source, name_map)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("tied", [True, False])
def test_the_hubs_weights_compute_what_numpy_does(prefix: str, tied: bool, tmp_path):
    arrays = random_arrays(prefix)
    embedding = arrays[f"{prefix}wte.weight"]
    head = embedding if tied else embedding[::-1].copy()
    old = {f"{prefix}h.1.attn.bias": np.tri(8, dtype=np.float32)[None, None]}
    old |= {f"{prefix}h.1.attn.masked_bias": np.float32(-1e4)}
    repeated = {} if tied and not prefix else {"lm_head.weight": head}
    source = opened(tmp_path, arrays | old | repeated)
    network = loaded(source, tie_word_embeddings=tied)
    exact = {n.removeprefix(prefix): a.astype(np.float64) for n, a in arrays.items()}
    expected = forward(exact, TOKENS, head.astype(np.float64))
    found = jax.jit(network.model.apply)(network.params, jnp.array(TOKENS)[None])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert ("head" in network.params) is not tied


def test_text_goes_on_as_numpy_finds_likeliest(tmp_path):
    arrays = random_arrays("")
    network = loaded(opened(tmp_path, arrays))
    prompts = [[3, 1, 4, 1], [5]]
    drawn = generate(
        network.model.apply,
        network.params,
        prompts,
        empty_cache=partial(empty_cache, network.config),
        steps=3,
        key=jax.random.key(0),
        temperature=0.0,
    )
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    for prompt, row in zip(prompts, np.stack(list(drawn), 1), strict=True):
        tokens = np.array([*prompt, *row])
        logits = forward(exact, tokens, exact["wte.weight"])
        np.testing.assert_array_equal(logits[len(prompt) - 1 : -1].argmax(-1), row)


@pytest.mark.parametrize("tied", [True, False])
def test_tree_to_file_to_tree_is_bit_identical(tied: bool, tmp_path):
    rng = np.random.default_rng(0)
    config = TransformerConfig(2, 8, 2, vocab=11, context=6, ffn=12, tied=tied)
    name_map = gpt2_map(2, width=8, tied=tied)
    like = jax.eval_shape(transformer(config).init, jax.random.key(0))
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), like)
    source = opened(tmp_path, export(params, name_map))
    assert set(source.arrays) == set(name_map.theirs)
    again = tree.leaves(load(source, name_map, like).params)
    for path, leaf in tree.leaves(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_a_file_goes_back_as_it_was(tmp_path):
    arrays = random_arrays("transformer.")
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    network = loaded(opened(tmp_path, arrays))
    again = export(network.params, network.name_map, names=arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name].read(), array, err_msg=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"activation_function": "mish"}, "activation 'mish', wlab knows relu, gelu"),
    ],
)
def test_what_the_decoder_lacks_is_named(change: dict, said: str, tmp_path):
    with pytest.raises(ValueError, match=said):
        loaded(opened(tmp_path, random_arrays("")), **change)


def test_a_head_of_its_own_is_not_taken_for_the_embedding(tmp_path):
    head = {"lm_head.weight": np.ones((17, 12), np.float32)}
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs"):
        loaded(opened(tmp_path, random_arrays("transformer.") | head))


WORDS = ["l", "o", "w", "e", "r", "Ġ", "lo", "low", "er", "Ġlow", "<|endoftext|>"]
MERGES = ["l o", "lo w", "e r", "Ġ low"]


def vocabulary(folder, merges: list[str], **changes: object) -> tuple:
    numbers = {word: i for i, word in enumerate(WORDS)} | changes
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def test_a_vocabulary_and_its_merges_are_a_tokenizer(tmp_path):
    words = text.from_merges(*vocabulary(tmp_path, MERGES))
    assert words.encode("low lower<|endoftext|>") == [7, 9, 8, 10]
    assert words.decode([7, 9, 8, 10]) == "low lower"
    assert (words.size, words.bos, words.eos) == (11, None, 10)


@pytest.mark.parametrize(
    ("merges", "changes", "said"),
    [
        (["l w"], {}, "'l w' does not join two tokens"),
        (["low"], {}, "'low' does not join two tokens"),
        (MERGES, {"low": "7"}, "the number of token 'low' is '7'"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(merges, changes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        text.from_merges(*vocabulary(tmp_path, merges, **changes))


def test_a_vocabulary_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no token '</s>': name the one"):
        text.from_merges(*vocabulary(tmp_path, MERGES), eos="</s>")
