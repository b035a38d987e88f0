"""Mistral, Qwen2, Qwen3 and stretched LLaMAs in the hub's folders, against a forward in NumPy."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import references
from test_llama_networks import GGUF, HUB, TOKENS, config_json
from test_to_gguf import PIECES, pieces_json

from wlab import tree
from wlab.checkpoint import open_source, save_gguf, save_safetensors
from wlab.models import EncoderConfig
from wlab.pretrained import from_gguf, from_hub, save_hub, text, to_gguf, to_hub

VOCAB, WIDTH = 300, 24
MORE_HUB = {
    **{f"{n}_bias": f"model.layers.{{i}}.self_attn.{n}_proj.bias" for n in "qkv"},
    **{f"{n}_norm": f"model.layers.{{i}}.self_attn.{n}_norm.weight" for n in "qk"},
}
MORE_GGUF = {
    **{f"{n}_bias": f"blk.{{i}}.attn_{n}.bias" for n in "qkv"},
    **{f"{n}_norm": f"blk.{{i}}.attn_{n}_norm.weight" for n in "qk"},
}
BIASES, NORMS = ("q_bias", "k_bias", "v_bias"), ("q_norm", "k_norm")
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# A folder's sizes, the entries of a head, what there is more than in LLaMA, llama.cpp's name.
KIN = {
    "mistral": ({"model_type": "mistral", "sliding_window": None, "head_dim": 6}, 6, (), "llama"),
    "mistral 0.1": ({"model_type": "mistral", "sliding_window": 3}, 4, (), "llama"),
    "qwen2": ({"model_type": "qwen2"}, 4, BIASES, "qwen2"),
    "qwen3": ({"model_type": "qwen3", "head_dim": 10}, 10, NORMS, "qwen3"),
    "llama 3.2": ({"rope_scaling": LLAMA_3, "rope_theta": 50.0, "head_dim": 12}, 12, (), "llama"),
    "linear": ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 4, (), "llama"),
}


def slower_of(sizes: dict, size: int) -> np.ndarray | float:
    """By wave lengths, as the published code has it."""
    said = sizes.get("rope_scaling", sizes.get("rope_parameters", {}))
    if said.get("rope_type") != "llama3":
        return said.get("factor", 1.0)
    found = []
    for j in range(size // 2):
        turn = sizes["rope_theta"] ** (-2 * j / size)
        wave = 2 * math.pi / turn
        if wave < 64 / 4:
            scaled = turn
        elif wave > 64 / 1:
            scaled = turn / 32
        else:
            smooth = (64 / wave - 1) / (4 - 1)
            scaled = (1 - smooth) * turn / 32 + smooth * turn
        found.append(turn / scaled)
    assert 1.0 in found and 32.0 in found and len({1.0, 32.0, *found}) > 2
    return np.array(found)


def folder_of(folder: Path, kin: str) -> dict[str, np.ndarray]:
    """Writes a folder of the hub; gives its arrays."""
    sizes, size, more, _ = KIN[kin]
    shapes = {
        "embed": (VOCAB, WIDTH),
        "q": (6 * size, WIDTH),
        "o": (WIDTH, 6 * size),
        "down": (WIDTH, 32),
        "q_bias": (6 * size,),
        **dict.fromkeys(("norm", "norm_1", "norm_2"), (WIDTH,)),
        **dict.fromkeys(("k", "v"), (3 * size, WIDTH)),
        **dict.fromkeys(("gate", "up"), (32, WIDTH)),
        **dict.fromkeys(("k_bias", "v_bias"), (3 * size,)),
        **dict.fromkeys(NORMS, (size,)),
    }
    rng, arrays = np.random.default_rng(0), {}
    for role in shapes.keys() - {*BIASES, *NORMS} | {*more}:
        name = {**HUB, **MORE_HUB}[role]
        for i in range(2 if "{i}" in name else 1):
            arrays[name.format(i=i)] = rng.normal(0.1, 0.4, shapes[role]).astype(np.float32)
    save_safetensors(folder / "model.safetensors", arrays)
    whole = config_json(vocab_size=VOCAB, intermediate_size=32, max_position_embeddings=64, **sizes)
    (folder / "config.json").write_text(whole)
    (folder / "tokenizer.json").write_text(pieces_json())
    return arrays


def logits(arrays: dict[str, np.ndarray], names: dict[str, str], kin: str, *, interleaved: bool):
    sizes, size, more, _ = KIN[kin]

    def weight(role: str, i: int) -> np.ndarray:
        name = names["embed" if role == "head" else role]
        return arrays[name.format(i=i)].astype(np.float64)

    return references.llama(
        weight,
        TOKENS,
        layers=2,
        heads=6,
        interleaved=interleaved,
        base=sizes.get("rope_theta", 10_000.0),
        slower=slower_of(sizes, size),
        more=more,
        window=sizes.get("sliding_window") or 0,
    )


@pytest.mark.parametrize("kin", list(KIN))
def test_a_folder_and_its_gguf_file_compute_what_numpy_does(tmp_path, kin):
    arrays = folder_of(tmp_path, kin)
    wanted = logits(arrays, {**HUB, **MORE_HUB}, kin, interleaved=False)
    network = from_hub(tmp_path)
    found = network.model.apply(network.params, jnp.array(TOKENS)[None])[0]
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)

    there, metadata = to_gguf(network)
    save_gguf(tmp_path / "w.gguf", there, metadata=metadata)
    family = KIN[kin][3]
    assert metadata["general.architecture"] == family
    longest = metadata[f"{family}.context_length"]  # up to which llama.cpp computes the same
    assert longest == (KIN[kin][0].get("sliding_window") or 64)
    written = {name: a.read() for name, a in open_source(tmp_path / "w.gguf").arrays.items()}
    names, turned = {**GGUF, **MORE_GGUF}, family == "llama"
    in_file = logits(written, names, kin, interleaved=turned)
    np.testing.assert_allclose(in_file, wanted, rtol=1e-9)
    slower = slower_of(*KIN[kin][:2])
    assert ("rope_freqs.weight" in written) == (bool(np.any(slower != 1.0)))
    again = from_gguf(tmp_path / "w.gguf")
    assert again.config.head_size == network.config.head_size
    np.testing.assert_allclose(again.config.rope_factors, network.config.rope_factors, rtol=1e-6)
    for path, leaf in tree.leaves(again.params).items():
        np.testing.assert_array_equal(leaf, tree.leaves(network.params)[path], err_msg=path)


@pytest.mark.parametrize("kin", list(KIN))
def test_a_folder_comes_out_as_it_went_in(tmp_path, kin):
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    folder_of(folder, kin)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    network = from_hub(folder)
    if kin == "llama 3.2":  # trained first on other lengths than Meta's
        with pytest.raises(ValueError, match="no rope_scaling that wlab knows"):
            save_hub(other, network)
        return
    save_hub(other, network)
    weights = [each / "model.safetensors" for each in (folder, other)]
    before, after = ({n: a.read() for n, a in open_source(w).arrays.items()} for w in weights)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name, strict=True)
    again = from_hub(other, lazy=True)
    assert again.config == network.config
    assert (again.tokenizer.bos, again.tokenizer.eos) == (1, 2)
    assert again.tokenizer.encode("ab 1 é") == network.tokenizer.encode("ab 1 é")


def test_meta_s_angles_are_said_as_meta_does(tmp_path):
    folder_of(tmp_path, "llama 3.2")
    said = LLAMA_3 | {"original_max_position_embeddings": 8192, "factor": 8.0}
    whole = json.loads((tmp_path / "config.json").read_text()) | {"rope_theta": 500_000.0}
    whole |= {"rope_scaling": said}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    _, config = to_hub(from_hub(tmp_path, lazy=True))
    assert config["rope_scaling"] == said and config["rope_theta"] == 500_000.0


def test_a_tokenizer_that_began_texts_by_itself_does_so_in_the_folder(tmp_path):
    words = {"model": "llama", "tokens": PIECES, "scores": [0.0] * 262 + [-1.0, -2.0]}
    words |= {"bos_token_id": 1, "eos_token_id": 2}
    made = text.from_gguf({f"tokenizer.ggml.{key}": value for key, value in words.items()})
    text.save_hub(tmp_path, made)
    again = text.from_hub(tmp_path / "tokenizer.json")
    for sentence in ("ab ba", "", "é\n"):
        assert again.encode(sentence) == made.encode(sentence)
    with pytest.raises(ValueError, match="not of the `tokenizers` package"):
        text.save_hub(tmp_path, text.Tokenizer(lambda s: [], str, 3))


def test_other_networks_have_no_folder_of_llama_s(tmp_path):
    folder_of(tmp_path, "qwen2")
    other = replace(from_hub(tmp_path, lazy=True), config=EncoderConfig(1, 8, 2, 9, 4, 8))
    with pytest.raises(ValueError, match="EncoderConfig is not of LLaMA's kin"):
        save_hub(tmp_path / "b", other)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("sizes", "window"),
    [({}, 4096), ({"sliding_window": 9}, 9), ({"sliding_window": 5000}, 0)],
)
def test_mistral_s_window_is_4096_tokens_where_none_is_said(tmp_path, sizes, window):
    folder_of(tmp_path, "mistral 0.1")
    whole = json.loads((tmp_path / "config.json").read_text()) | {"max_position_embeddings": 5000}
    del whole["sliding_window"]
    (tmp_path / "config.json").write_text(json.dumps(whole | sizes))
    network = from_hub(tmp_path, lazy=True)
    assert network.config.window == window
    _, written = to_hub(network)
    assert written.get("sliding_window", 0) == window
    assert written["model_type"] == ("mistral" if window else "llama")
    with pytest.raises(ValueError, match="a qwen2 of the hub has no window of 9 tokens"):
        to_hub(replace(network, config=replace(network.config, qkv_bias=True, window=9)))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window=True"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "knows default, linear and"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "lacks 'low_freq_factor'"),
    ],
)
def test_what_the_decoder_lacks_is_refused(tmp_path, sizes, said):
    folder_of(tmp_path, "qwen2")
    whole = json.loads(config_json(max_position_embeddings=5000)) | sizes
    (tmp_path / "config.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=said):
        from_hub(tmp_path)
