"""BERT through its map: random weights in the hub's names, and the real MiniLM."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import real
import references

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.pretrained import export, from_hub, sentence_vectors

SIZES = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 17,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
}
TOKENS = np.array([3, 1, 4, 1, 5])


def random_arrays() -> dict[str, np.ndarray]:
    """Under the names and in the shapes of `BertModel`, written down by hand."""
    rng = np.random.default_rng(0)
    width, ffn = SIZES["hidden_size"], SIZES["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (17, width),
        "embeddings.position_embeddings.weight": (8, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for i in range(2):
        at = f"encoder.layer.{i}"
        for name, (inputs, outputs) in {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (width, ffn),
            "output.dense": (ffn, width),
        }.items():
            shapes |= {f"{at}.{name}.weight": (outputs, inputs), f"{at}.{name}.bias": (outputs,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}.{name}.weight": (width,), f"{at}.{name}.bias": (width,)}
    return {name: rng.normal(0.1, 0.4, s).astype(np.float32) for name, s in shapes.items()}


def hub_folder(folder, arrays: dict[str, np.ndarray], prefix: str = ""):
    (folder / "config.json").write_text(json.dumps(SIZES))
    named = {prefix + name: array for name, array in arrays.items()}
    save_safetensors(folder / "model.safetensors", named)
    return folder


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_folder_of_the_hub_computes_what_numpy_does(tmp_path, prefix):
    arrays = random_arrays()
    network = from_hub(hub_folder(tmp_path, arrays, prefix))
    found = network.model.apply(network.params, jnp.array(TOKENS)[None])
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    expected = references.bert(exact, TOKENS, layers=2, heads=3)
    np.testing.assert_allclose(found.states[0], expected, rtol=1e-4, atol=1e-4)
    pooled = np.tanh(expected[0] @ exact["pooler.dense.weight"].T + exact["pooler.dense.bias"])
    np.testing.assert_allclose(found.pooled[0], pooled, rtol=1e-4, atol=1e-4)


def test_another_family_is_named(tmp_path):
    folder = hub_folder(tmp_path, random_arrays())
    (folder / "config.json").write_text(json.dumps(SIZES | {"model_type": "mamba"}))
    with pytest.raises(ValueError, match="'mamba'; wlab knows albert, bert"):
        from_hub(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    (hub_folder(tmp_path, random_arrays()) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        from_hub(tmp_path)


def test_minilm_is_the_published_network():
    network = real.network("minilm")
    assert tree.count(network.params) == 22_713_216  # 22,713,728 with the 512 positions
    arrays = open_source(real.folder("minilm") / "model.safetensors").arrays
    exact = {n: a.read().astype(np.float64) for n, a in arrays.items()}
    tokens = network.tokenizer.encode("A man is playing a guitar.")
    expected = references.bert(exact, np.array(tokens), layers=6, heads=12)
    found = network.model.apply(network.params, jnp.array([tokens])).states[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_minilm_knows_which_sentences_are_alike():
    texts = ["A man is playing a guitar.", "Someone plays music.", "The stock market fell today."]
    vectors = sentence_vectors(real.network("minilm"), texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.4 > 0.2 > max(cosines[0, 2], cosines[1, 2])


@pytest.mark.parametrize("name", ["minilm", "minilm-fp16"])
def test_minilm_goes_back_to_the_hubs_file_byte_by_byte(name, tmp_path):
    network = real.network(name)
    source = open_source(real.folder(name) / "model.safetensors")
    arrays = export(network.params, network.name_map, names=source.arrays)
    save_safetensors(tmp_path / "again.safetensors", arrays)
    again = open_source(tmp_path / "again.safetensors").arrays
    assert set(again) == set(source.arrays)
    for path, array in source.arrays.items():
        assert (again[path].dtype, again[path].shape) == (array.dtype, array.shape)
        assert again[path].read().tobytes() == array.read().tobytes(), path
