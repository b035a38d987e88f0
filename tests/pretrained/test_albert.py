"""ALBERT through its map: random weights in the hub's names against NumPy, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import softmax

from wlab import tree
from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.models import EncoderConfig, encoder
from wlab.pretrained import export, load
from wlab.pretrained.maps.albert import albert as albert_map
from wlab.pretrained.networks.hub_text import albert
from wlab.pretrained.networks.network import Network, filled

SIZES = {
    "model_type": "albert",
    "num_hidden_layers": 3,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "hidden_size": 12,
    "embedding_size": 4,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 17,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-2,
}
TOKENS, TYPES = np.array([3, 1, 4, 1, 5]), np.array([0, 0, 1, 1, 1])
AT = "encoder.albert_layer_groups.0.albert_layers.0"


def random_arrays(prefix: str = "") -> dict[str, np.ndarray]:
    """Under the names and in the shapes of `AlbertModel`, written down by hand."""
    rng, shapes = np.random.default_rng(0), {}
    for name, rows in (("word", 17), ("position", 8), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, 4)
    for name, (inputs, outputs) in {
        "encoder.embedding_hidden_mapping_in": (4, 12),
        f"{AT}.attention.query": (12, 12),
        f"{AT}.attention.key": (12, 12),
        f"{AT}.attention.value": (12, 12),
        f"{AT}.attention.dense": (12, 12),
        f"{AT}.ffn": (12, 20),
        f"{AT}.ffn_output": (20, 12),
        "pooler": (12, 12),
    }.items():
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    for name, width in (
        ("embeddings.LayerNorm", 4),
        (f"{AT}.attention.LayerNorm", 12),
        (f"{AT}.full_layer_layer_norm", 12),
    ):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return {prefix + n: rng.normal(0.1, 0.4, s).astype(np.float32) for n, s in shapes.items()}


def forward(w: dict[str, np.ndarray], tokens: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The states of one sequence, by the names of the hub (Lan et al. 2020)."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][tokens]
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][types], "embeddings.LayerNorm")
    x = linear(x, "encoder.embedding_hidden_mapping_in")
    for _ in range(3):
        q, k, v = (
            linear(x, f"{AT}.attention.{n}").reshape(len(x), 3, 4).swapaxes(0, 1)
            for n in ("query", "key", "value")
        )
        mixed = (softmax(q @ k.swapaxes(1, 2) / 2) @ v).swapaxes(0, 1).reshape(x.shape)
        x = norm(x + linear(mixed, f"{AT}.attention.dense"), f"{AT}.attention.LayerNorm")
        h = linear(x, f"{AT}.ffn")
        h = h / (1 + np.exp(-np.sqrt(8 / np.pi) * (h + 0.044715 * h**3)))
        x = norm(x + linear(h, f"{AT}.ffn_output"), f"{AT}.full_layer_layer_norm")
    return x


def opened(folder, arrays: dict[str, np.ndarray]) -> Source:
    save_safetensors(folder / "model.safetensors", arrays)
    return open_source(folder / "model.safetensors")


def loaded(source: Source, sizes: dict = SIZES, **options: object) -> Network:
    config, model, name_map = albert(sizes, source)
    return filled(model, config, source, name_map, **options)


@pytest.mark.parametrize("prefix", ["", "albert."])
def test_the_hubs_weights_compute_what_numpy_does(prefix: str, tmp_path):
    arrays = random_arrays(prefix)
    heads = {f"{prefix}embeddings.position_ids": np.arange(8)[None]}
    if prefix:
        heads |= {"predictions.bias": np.ones(17), "sop_classifier.classifier.bias": np.ones(2)}
    network = loaded(opened(tmp_path, arrays | heads))
    exact = {n.removeprefix(prefix): a.astype(np.float64) for n, a in arrays.items()}
    expected = forward(exact, TOKENS, TYPES)
    padded, types = (np.array([[*x, 0, 0]]) for x in (TOKENS, TYPES))
    mask = jnp.array([[True] * 5 + [False] * 2])
    apply = jax.jit(network.model.apply)
    found = apply(network.params, jnp.array(padded), types=jnp.array(types), mask=mask)
    np.testing.assert_allclose(found.states[0, :5], expected, rtol=1e-4, atol=1e-4)
    pooled = np.tanh(expected[0] @ exact["pooler.weight"].T + exact["pooler.bias"])
    np.testing.assert_allclose(found.pooled[0], pooled, rtol=1e-4, atol=1e-4)
    assert [name for name in network.params if "block" in name] == ["block_0"]


def test_tree_to_file_to_tree_is_bit_identical(tmp_path):
    rng = np.random.default_rng(0)
    config = EncoderConfig(2, 8, 2, vocab=11, context=6, ffn=12, embed_width=3, shared=True)
    like = jax.eval_shape(encoder(config).init, jax.random.key(0))
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), like)
    name_map = albert_map(context=6)
    source = opened(tmp_path, export(params, name_map))
    assert set(source.arrays) == set(name_map.theirs)
    again = tree.leaves(load(source, name_map, like).params)
    for path, leaf in tree.leaves(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


@pytest.mark.parametrize("name", ["num_hidden_groups", "inner_group_num"])
def test_more_groups_than_one_are_named(name: str, tmp_path):
    with pytest.raises(ValueError, match=f"{name}=2, wlab knows 1 alone"):
        loaded(opened(tmp_path, random_arrays()), SIZES | {name: 2})


def test_a_head_for_a_task_is_not_lost_in_silence(tmp_path):
    head = {"classifier.weight": np.ones((2, 12), np.float32)}
    source = opened(tmp_path, random_arrays("albert.") | head)
    with pytest.raises(ValueError, match=r"array 'classifier.weight' .* has no place"):
        loaded(source)
    assert loaded(source, ignore=[r"classifier\..*"]).plan.count("ignored") == 1


def test_a_file_without_a_pooler_needs_a_word(tmp_path):
    arrays = random_arrays("albert.")
    source = opened(tmp_path, {n: a for n, a in arrays.items() if ".pooler." not in n})
    with pytest.raises(ValueError, match=r"'pool/kernel' \[12,12\] is missing"):
        loaded(source)
    network = loaded(source, policies=[("pool/.*", "zero"), (".*", "error")])
    assert not np.any(network.params["pool"]["kernel"])
