"""CLIP through its map: random weights in the hub's names against NumPy, there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.models import CLIPConfig, Tower
from wlab.pretrained import Network, export
from wlab.pretrained.networks import hub_images
from wlab.pretrained.networks.network import filled
from wlab.pretrained.networks.pictures import pictures as pictures_of

TEXT = {
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 17,
    "max_position_embeddings": 7,
    "eos_token_id": 15,
}
VISION = {
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
}
SIZES = {"model_type": "clip", "projection_dim": 6}
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
TOKENS = np.array([[14, 3, 1, 15, 0, 16], [14, 4, 1, 5, 9, 15], [15, 2, 15, 2, 2, 2]])
NUMBERS = {
    "text_model.embeddings.position_ids": np.arange(7)[None],
    "vision_model.embeddings.position_ids": np.arange(5)[None],
}
Arrays = dict[str, np.ndarray]


def random_arrays() -> Arrays:
    """Under the names and in the shapes of `CLIPModel`, written down by hand."""
    shapes = {
        "logit_scale": (),
        "text_projection.weight": (6, 12),
        "visual_projection.weight": (6, 8),
        "text_model.embeddings.token_embedding.weight": (17, 12),
        "text_model.embeddings.position_embedding.weight": (7, 12),
        "vision_model.embeddings.class_embedding": (8,),
        "vision_model.embeddings.patch_embedding.weight": (8, 3, 4, 4),
        "vision_model.embeddings.position_embedding.weight": (5, 8),
    }
    norms = {"text_model.final_layer_norm": 12}
    norms |= {"vision_model.pre_layrnorm": 8, "vision_model.post_layernorm": 8}
    for tower, layers, width in (("text_model", 2, 12), ("vision_model", 1, 8)):
        for i in range(layers):
            at = f"{tower}.encoder.layers.{i}"
            for name, inputs, outputs in (
                *((f"self_attn.{n}_proj", width, width) for n in ("q", "k", "v", "out")),
                ("mlp.fc1", width, 20),
                ("mlp.fc2", 20, width),
            ):
                shapes[f"{at}.{name}.weight"] = (outputs, inputs)
                shapes[f"{at}.{name}.bias"] = (outputs,)
            norms |= {f"{at}.layer_norm1": width, f"{at}.layer_norm2": width}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.1, 0.4, s).astype(np.float32) for name, s in shapes.items()}


class Reference:
    """The file's own names in float64 (Radford et al. 2021)."""

    def __init__(self, arrays: Arrays, *, exact: bool = False):
        self.w = {name: array.astype(np.float64) for name, array in arrays.items()}
        self.exact = exact

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("ti,oi->to", x, self.w[f"{name}.weight"]) + self.w.get(f"{name}.bias", 0)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def layer(self, x: np.ndarray, at: str, heads: int, future: np.ndarray) -> np.ndarray:
        h = self.norm(x, f"{at}.layer_norm1")
        q, k, v = (
            self.linear(h, f"{at}.self_attn.{n}_proj").reshape(len(x), heads, -1) for n in "qkv"
        )
        odds = np.exp(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1]) + future)
        heard = np.einsum("hqk,khd->qhd", odds / odds.sum(-1, keepdims=True), v).reshape(x.shape)
        x = x + self.linear(heard, f"{at}.self_attn.out_proj")
        h = self.linear(self.norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
        h = h * (1 + erf(h / np.sqrt(2))) / 2 if self.exact else h / (1 + np.exp(-1.702 * h))
        return x + self.linear(h, f"{at}.mlp.fc2")

    def text(self, tokens: np.ndarray, end: int) -> np.ndarray:
        at, time = "text_model.embeddings", len(tokens)
        x = self.w[f"{at}.token_embedding.weight"][tokens]
        x = x + self.w[f"{at}.position_embedding.weight"][:time]
        future = np.triu(np.full((time, time), -np.inf), 1)
        for i in range(2):
            x = self.layer(x, f"text_model.encoder.layers.{i}", 3, future)
        return self.linear(self.norm(x, "text_model.final_layer_norm"), "text_projection")[end]

    def image(self, image: np.ndarray) -> np.ndarray:
        at = "vision_model.embeddings"
        kernel = self.w[f"{at}.patch_embedding.weight"]
        corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
        cut = [np.einsum("yxc,ocyx->o", image[y : y + 4, x : x + 4], kernel) for y, x in corners]
        x = np.stack([self.w[f"{at}.class_embedding"], *cut])
        x = self.norm(x + self.w[f"{at}.position_embedding.weight"], "vision_model.pre_layrnorm")
        x = self.layer(x, "vision_model.encoder.layers.0", 2, np.zeros((5, 5)))
        return self.linear(self.norm(x, "vision_model.post_layernorm"), "visual_projection")[0]


def opened(tmp_path, arrays: Arrays) -> Source:
    save_safetensors(tmp_path / "model.safetensors", arrays)
    return open_source(tmp_path / "model.safetensors")


def network(source: Source, *, text: dict | None = None, vision: dict | None = None) -> Network:
    sizes = SIZES | {"text_config": TEXT | (text or {}), "vision_config": VISION | (vision or {})}
    config, model, name_map = hub_images.clip(sizes, source)
    return filled(model, config, source, name_map)


@pytest.mark.parametrize(
    ("end", "act", "ends"), [(15, "quick_gelu", [3, 5, 0]), (2, "gelu", [5, 5, 0])]
)
def test_both_towers_compute_what_numpy_does(end, act, ends, tmp_path):
    arrays = random_arrays()
    source = opened(tmp_path, arrays | NUMBERS)
    found = network(
        source, text={"eos_token_id": end, "hidden_act": act}, vision={"hidden_act": act}
    )
    assert found.plan.count("constant") == 2
    reference = Reference(arrays, exact=act == "gelu")
    images = np.array([reference.image(image) for image in IMAGES])
    texts = np.array([reference.text(t, end) for t, end in zip(TOKENS, ends, strict=True)])
    inputs = jnp.array(IMAGES), jnp.array(TOKENS)

    @jax.jit
    def outputs(params):
        return (
            found.model.apply(params, inputs[0], method="encode_image"),
            found.model.apply(params, inputs[1], method="encode_text"),
            found.model.apply(params, *inputs),
        )

    cosines = (images @ texts.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (images, texts)))
    wanted = (images, texts, np.exp(float(arrays["logit_scale"])) * cosines)
    for one, other in zip(outputs(found.params), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("numbers", [{}, NUMBERS])
def test_the_way_back_gives_the_file_again_bit_by_bit(numbers, tmp_path):
    arrays = random_arrays() | numbers
    source = opened(tmp_path, arrays)
    found = network(source)
    made = export(found.params, found.name_map, names=source.arrays)
    save_safetensors(tmp_path / "again.safetensors", made)
    again = open_source(tmp_path / "again.safetensors").arrays
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name].read(), array, err_msg=name)


def test_the_sizes_are_those_of_the_file_and_its_kind(tmp_path):
    found = network(opened(tmp_path, random_arrays()))
    vision = Tower(layers=1, width=8, heads=2, ffn=20)
    assert found.config == CLIPConfig(Tower(2, 12, 3, ffn=20), vision, 6, 17, 7, 8, 4, end=15)
    pictures = pictures_of(tmp_path, SIZES, found.config)
    assert (pictures.image_size, pictures.labels) == (8, ())


def test_older_files_sizes_stand_in_a_second_place(tmp_path):
    source = opened(tmp_path, random_arrays())
    sizes = SIZES | {"text_config_dict": TEXT, "vision_config_dict": VISION, "text_config": None}
    config, _, _ = hub_images.clip(sizes | {"vision_config": {"patch_size": 2}}, source)
    assert (config.text.layers, config.patch) == (2, 4)


def test_other_position_numbers_are_refused(tmp_path):
    name = "text_model.embeddings.position_ids"
    with pytest.raises(ValueError, match=f"'{name}' is not the constant"):
        network(opened(tmp_path, random_arrays() | {name: np.arange(7)[None] + 2}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": {"hidden_act": "mish"}}, "activation 'mish', wlab knows relu, gelu"),
        ({"text": {"eos_token_id": [15, 2]}}, r"\[15, 2\] as eos_token_id"),
        ({"text": {"eos_token_id": 49407}}, "end .49407. must be one of the 17 tokens"),
        ({"vision": {"image_size": 10}}, "image_size .10. must be a multiple of patch .4."),
        ({"vision": {"image_size": 12}}, r"'vision/embed/position/embedding' is float32\[5,8\]"),
        ({"vision": {"num_channels": 1}}, "num_channels=1, wlab knows 3 alone"),
        ({"vision": {"model_type": "siglip"}}, "model_type='siglip'"),
        ({"vision": {"layers": [3, 4, 6, 3]}}, r"a ResNet \(layers=\[3, 4, 6, 3\]"),
        ({"vision": {"model_type": "timm_resnet50"}}, "is a ResNet.*take a version"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, said, tmp_path):
    source = opened(tmp_path, random_arrays())
    with pytest.raises(ValueError, match=said):
        network(source, **change)


@pytest.mark.parametrize("name", ["visual.layer1.0.conv1.weight", "visual.attnpool.q_proj.weight"])
def test_a_resnet_is_known_by_its_arrays(name, tmp_path):
    with pytest.raises(ValueError, match=f"a ResNet .array '{name}'"):
        network(opened(tmp_path, {name: np.zeros((2, 2), np.float32)}))
