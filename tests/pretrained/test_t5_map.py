"""T5 through its map: random weights in the hub's names against NumPy, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import softmax

from wlab import tree
from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.models import T5Config
from wlab.models import t5 as model_of
from wlab.pretrained import export, load
from wlab.pretrained.maps.t5 import t5 as t5_map
from wlab.pretrained.networks.hub_text import t5
from wlab.pretrained.networks.network import Network, filled

SIZES = {
    "model_type": "t5",
    "num_layers": 2,
    "num_decoder_layers": 1,
    "d_model": 12,
    "num_heads": 3,
    "d_kv": 5,
    "d_ff": 20,
    "vocab_size": 17,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 5,
    "layer_norm_epsilon": 1e-2,
}
V1_1 = SIZES | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
TOKENS, TARGETS = np.array([3, 1, 4, 1, 5, 9]), np.array([0, 2, 6, 5])
# By hand, for 8 classes up to a distance of 5: of keys before, at and behind a query.
BOTH_WAYS = {-5: 3, -4: 3, -3: 2, -2: 2, -1: 1, 0: 0, 1: 5, 2: 6, 3: 6, 4: 7, 5: 7}
CAUSAL = {-3: 3, -2: 2, -1: 1, 0: 0, 1: 0, 2: 0, 3: 0}


def random_arrays(*, gated: bool = False) -> dict[str, np.ndarray]:
    """Under the names and in the shapes of `T5ForConditionalGeneration`, written down by hand."""
    rng, shapes = np.random.default_rng(0), {"shared.weight": (17, 12)}
    attention = {"q": (15, 12), "k": (15, 12), "v": (15, 12), "o": (12, 15)}
    units = dict.fromkeys(("wi_0", "wi_1") if gated else ("wi",), (20, 12))
    units |= {"wo": (12, 20)}
    for side, blocks in (("encoder", 2), ("decoder", 1)):
        parts = [("SelfAttention", attention), ("DenseReluDense", units)]
        if side == "decoder":
            parts.insert(1, ("EncDecAttention", attention))
        for i in range(blocks):
            for j, (name, kernels) in enumerate(parts):
                at = f"{side}.block.{i}.layer.{j}"
                shapes |= {f"{at}.{name}.{k}.weight": shape for k, shape in kernels.items()}
                shapes |= {f"{at}.layer_norm.weight": (12,)}
        shapes[f"{side}.final_layer_norm.weight"] = (12,)
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shapes[table] = (8, 3)
    return {name: rng.normal(0.1, 0.4, s).astype(np.float32) for name, s in shapes.items()}


def forward(w: dict[str, np.ndarray], head: np.ndarray, *, gated: bool) -> np.ndarray:
    """The logits of one pair, by the names of the hub (Raffel et al. 2020)."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2) * w[f"{name}.weight"]

    def attention(x: np.ndarray, y: np.ndarray, name: str, bias: np.ndarray) -> np.ndarray:
        q, k, v = (
            (z @ w[f"{name}.{n}.weight"].T).reshape(len(z), 3, 5).swapaxes(0, 1)
            for n, z in (("q", x), ("k", y), ("v", y))
        )
        mixed = softmax(q @ k.swapaxes(1, 2) + bias) @ v
        return mixed.swapaxes(0, 1).reshape(len(x), 15) @ w[f"{name}.o.weight"].T

    def units(x: np.ndarray, name: str) -> np.ndarray:
        if not gated:
            return np.maximum(x @ w[f"{name}.wi.weight"].T, 0) @ w[f"{name}.wo.weight"].T
        h = x @ w[f"{name}.wi_0.weight"].T
        h = h / (1 + np.exp(-np.sqrt(8 / np.pi) * (h + 0.044715 * h**3)))
        return (h * (x @ w[f"{name}.wi_1.weight"].T)) @ w[f"{name}.wo.weight"].T

    def stack(tokens: np.ndarray, side: str, states: np.ndarray | None) -> np.ndarray:
        x, classes = w["shared.weight"][tokens], BOTH_WAYS if states is None else CAUSAL
        table = w[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        ahead = np.arange(len(x))[None] - np.arange(len(x))[:, None]
        bias = table[np.vectorize(classes.get)(ahead)].transpose(2, 0, 1)
        if states is not None:
            bias = np.where(ahead > 0, -np.inf, bias)
        for i in range(2 if states is None else 1):
            at = f"{side}.block.{i}.layer"
            h = norm(x, f"{at}.0.layer_norm")
            x = x + attention(h, h, f"{at}.0.SelfAttention", bias)
            if states is not None:
                h = norm(x, f"{at}.1.layer_norm")
                x = x + attention(h, states, f"{at}.1.EncDecAttention", np.zeros(1))
            last = f"{at}.{1 if states is None else 2}"
            x = x + units(norm(x, f"{last}.layer_norm"), f"{last}.DenseReluDense")
        return norm(x, f"{side}.final_layer_norm")

    return stack(TARGETS, "decoder", stack(TOKENS, "encoder", None)) @ head.T


def opened(folder, arrays: dict[str, np.ndarray]) -> Source:
    save_safetensors(folder / "model.safetensors", arrays)
    return open_source(folder / "model.safetensors")


def loaded(source: Source, sizes: dict) -> Network:
    config, model, name_map = t5(sizes, source)
    return filled(model, config, source, name_map)


def found_by(network: Network) -> np.ndarray:
    padded = jnp.array([[*TOKENS, 7, 7]])
    mask = jnp.array([[True] * 6 + [False] * 2])
    apply = jax.jit(network.model.apply)
    return apply(network.params, padded, targets=jnp.array(TARGETS)[None], mask=mask)[0]


def exact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def test_version_1_0_computes_what_numpy_does(tmp_path):
    arrays = random_arrays()
    names = ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    repeats = {f"{name}.weight": arrays["shared.weight"] for name in names}
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    source = opened(tmp_path, arrays | repeats | {unread: np.ones((8, 3), np.float32)})
    expected = forward(exact(arrays), arrays["shared.weight"] / np.sqrt(12), gated=False)
    np.testing.assert_allclose(found_by(loaded(source, SIZES)), expected, rtol=1e-4, atol=1e-4)


def test_version_1_1_computes_what_numpy_does(tmp_path):
    arrays = random_arrays(gated=True)
    head = np.random.default_rng(1).normal(size=(17, 12)).astype(np.float32)
    source = opened(tmp_path, arrays | {"lm_head.weight": head})
    network = loaded(source, V1_1)
    expected = forward(exact(arrays), head, gated=True)
    np.testing.assert_allclose(found_by(network), expected, rtol=1e-4, atol=1e-4)
    # Newer files call every head tied and say apart what becomes of the states.
    new = V1_1 | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert t5(new, source)[0] == network.config


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_tree_to_file_to_tree_is_bit_identical(gated: bool, tied: bool, tmp_path):
    rng = np.random.default_rng(0)
    config = T5Config(1, 8, 2, 3, 12, vocab=11, decoder_layers=2, gated=gated, tied=tied)
    like = jax.eval_shape(model_of(config).init, jax.random.key(0))
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), like)
    name_map = t5_map(1, decoder_layers=2, gated=gated, tied=tied)
    source = opened(tmp_path, export(params, name_map))
    assert set(source.arrays) == set(name_map.theirs)
    again = tree.leaves(load(source, name_map, like).params)
    for path, leaf in tree.leaves(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_a_head_of_its_own_is_not_taken_for_the_embedding(tmp_path):
    head = {"lm_head.weight": np.ones((17, 12), np.float32)}
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs"):
        loaded(opened(tmp_path, random_arrays() | head), SIZES)


def test_an_unknown_unit_is_named(tmp_path):
    with pytest.raises(ValueError, match="activation 'mish', wlab knows relu"):
        t5(SIZES | {"feed_forward_proj": "gated-mish"}, opened(tmp_path, random_arrays()))
