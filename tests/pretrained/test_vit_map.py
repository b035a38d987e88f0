"""ViT through its map: random weights in the hub's names against NumPy, there and back."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from wlab import tree
from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.cli.main import main
from wlab.models import ViTConfig
from wlab.pretrained import Network, export
from wlab.pretrained.networks import hub_images
from wlab.pretrained.networks.network import filled
from wlab.pretrained.networks.pictures import pictures as pictures_of

SIZES = {
    "model_type": "vit",
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
    "id2label": {"1": "dog", "0": "cat", "2": "espresso"},
}
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
Arrays = dict[str, np.ndarray]


def random_arrays(*, head: bool, pooler: bool = False, qkv_bias: bool = True) -> Arrays:
    """Under the names and in the shapes of the hub, written down by hand."""
    at = "vit." if head else ""
    shapes = {
        f"{at}embeddings.cls_token": (1, 1, 12),
        f"{at}embeddings.position_embeddings": (1, 5, 12),
        f"{at}embeddings.patch_embeddings.projection.weight": (12, 3, 4, 4),
        f"{at}embeddings.patch_embeddings.projection.bias": (12,),
    }
    linears = {f"{at}pooler.dense": (12, 12)} if pooler else {}
    linears |= {"classifier": (3, 12)} if head else {}
    norms = [f"{at}layernorm"]
    for i in range(2):
        layer = f"{at}encoder.layer.{i}"
        for name in ("query", "key", "value"):
            shapes[f"{layer}.attention.attention.{name}.weight"] = (12, 12)
            if qkv_bias:
                shapes[f"{layer}.attention.attention.{name}.bias"] = (12,)
        linears |= {
            f"{layer}.attention.output.dense": (12, 12),
            f"{layer}.intermediate.dense": (20, 12),
            f"{layer}.output.dense": (12, 20),
        }
        norms += [f"{layer}.layernorm_before", f"{layer}.layernorm_after"]
    for name, (outputs, inputs) in linears.items():
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    for name in norms:
        shapes |= {f"{name}.weight": (12,), f"{name}.bias": (12,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.1, 0.4, s).astype(np.float32) for name, s in shapes.items()}


def states(arrays: Arrays, image: np.ndarray, at: str) -> np.ndarray:
    """Of one image, in the names of the file (Dosovitskiy et al. 2021, eqs. 1-4)."""
    w = {name: array.astype(np.float64) for name, array in arrays.items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        name = f"{at}{name}"
        return np.einsum("ti,oi->to", x, w[f"{name}.weight"]) + w.get(f"{name}.bias", 0)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{at}{name}.weight"] + w[f"{at}{name}.bias"]

    kernel = w[f"{at}embeddings.patch_embeddings.projection.weight"]
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    cut = [np.einsum("yxc,ocyx->o", image[y : y + 4, x : x + 4], kernel) for y, x in corners]
    patches = np.array(cut) + w[f"{at}embeddings.patch_embeddings.projection.bias"]
    x = np.concatenate([w[f"{at}embeddings.cls_token"][0], patches])
    x = x + w[f"{at}embeddings.position_embeddings"][0]
    for i in range(2):
        layer = f"encoder.layer.{i}"
        h = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(h, f"{layer}.attention.attention.{name}").reshape(5, 3, 4)
            for name in ("query", "key", "value")
        )
        odds = np.exp(np.einsum("qhd,khd->hqk", q, k) / 2)
        heard = np.einsum("hqk,khd->qhd", odds / odds.sum(-1, keepdims=True), v).reshape(5, 12)
        x = x + linear(heard, f"{layer}.attention.output.dense")
        h = linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
        x = x + linear(h * (1 + erf(h / np.sqrt(2))) / 2, f"{layer}.output.dense")
    return norm(x, "layernorm")


def opened(tmp_path, arrays: Arrays) -> Source:
    save_safetensors(tmp_path / "model.safetensors", arrays)
    return open_source(tmp_path / "model.safetensors")


def network(source: Source, **sizes: object) -> Network:
    config, model, name_map = hub_images.vit(SIZES | sizes, source)
    return filled(model, config, source, name_map)


def test_a_classifier_computes_what_numpy_does(tmp_path):
    arrays = random_arrays(head=True, qkv_bias=False)
    found = network(opened(tmp_path, arrays), qkv_bias=False)
    logits = jax.jit(found.model.apply)(found.params, jnp.array(IMAGES))
    for row, image in zip(logits, IMAGES, strict=True):
        state = states(arrays, image, "vit.")[0]
        expected = arrays["classifier.weight"] @ state + arrays["classifier.bias"]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_a_bare_model_computes_what_numpy_does(tmp_path):
    arrays = random_arrays(head=False, pooler=True)
    found = network(opened(tmp_path, arrays), pooler_output_size=12)
    encoded = jax.jit(found.model.apply)(found.params, jnp.array(IMAGES))
    for i, image in enumerate(IMAGES):
        expected = states(arrays, image, "")
        np.testing.assert_allclose(encoded.states[i], expected, rtol=1e-4, atol=1e-4)
        pooled = arrays["pooler.dense.weight"] @ expected[0] + arrays["pooler.dense.bias"]
        np.testing.assert_allclose(encoded.pooled[i], np.tanh(pooled), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        {"head": True},
        {"head": True, "qkv_bias": False},
        {"head": False, "pooler": True},
        {"head": False},
    ],
)
def test_the_way_back_gives_the_file_again_bit_by_bit(kind, tmp_path):
    arrays = random_arrays(**kind)
    found = network(opened(tmp_path, arrays), qkv_bias=kind.get("qkv_bias", True))
    save_safetensors(tmp_path / "again.safetensors", export(found.params, found.name_map))
    again = open_source(tmp_path / "again.safetensors").arrays
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name].read(), array, err_msg=name)


def test_the_sizes_are_those_of_the_file(tmp_path):
    found = network(opened(tmp_path, random_arrays(head=True)), layer_norm_eps=1e-6)
    assert found.config == ViTConfig(2, 12, 3, 8, 4, ffn=20, classes=3, epsilon=1e-6)
    assert tree.leaves(found.params)["embed/patch/kernel"].shape == (4, 4, 3, 12)


def test_a_classifiers_pooler_is_left_in_the_file(tmp_path):
    found = network(opened(tmp_path, random_arrays(head=True, pooler=True)))
    assert found.plan.count("ignored") == 2
    assert "pool" not in found.params


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new', wlab knows 'gelu' alone"),
        ({"pooler_act": "relu"}, "pooler_act='relu', wlab knows 'tanh' alone"),
        ({"pooler_output_size": 7}, "pooler_output_size=7, wlab knows 12 alone"),
        ({"image_size": 10}, "image_size .10. must be a multiple of patch .4."),
        ({"image_size": [8, 12]}, "wlab reads squares only"),
        ({"image_size": 12}, r"'embed/position/embedding' is shape \(1, 5, 12\)"),
        ({"qkv_bias": False}, "has no place in the map"),
        ({"num_hidden_layers": 3}, "is missing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(sizes, said, tmp_path):
    source = opened(tmp_path, random_arrays(head=False, pooler=True))
    with pytest.raises(ValueError, match=said):
        network(source, **sizes)


CONFIG = ViTConfig(1, 12, 3, 8, 4, classes=3)
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def settings(folder, **fields: object) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))


def test_images_are_scaled_as_the_folder_says(tmp_path):
    settings(tmp_path, image_mean=MEAN, image_std=DEVIATION, size={"height": 8, "width": 8})
    found = pictures_of(tmp_path, SIZES, CONFIG)
    assert (found.image_size, found.labels) == (8, ("cat", "dog", "espresso"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    prepared = found.prepare(pixels)
    assert prepared.dtype == np.float32
    expected = (pixels / 255 - np.array(MEAN)) / np.array(DEVIATION)
    np.testing.assert_allclose(prepared, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="9×8×3, the network reads 8×8×3: crop"):
        found.prepare(np.zeros((1, 9, 8, 3), np.uint8))


def test_a_folder_of_the_hub_classifies_photographs(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    arrays = random_arrays(head=True)
    save_safetensors(tmp_path / "model.safetensors", arrays)
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    settings(tmp_path, image_mean=MEAN, image_std=DEVIATION)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "photo.png")
    assert (
        main(["classify", str(tmp_path), str(tmp_path / "photo.png"), "--top", "1", "--json"]) == 0
    )
    (row,) = json.loads(capsys.readouterr().out)
    state = states(arrays, (pixels / 255 - np.array(MEAN)) / np.array(DEVIATION), "vit.")[0]
    logits = arrays["classifier.weight"] @ state + arrays["classifier.bias"]
    assert row["class"] == ("cat", "dog", "espresso")[logits.argmax()]


@pytest.mark.parametrize(
    ("fields", "white"),
    [
        ({"do_normalize": False}, 1.0),
        ({"do_normalize": False, "do_rescale": False}, 255.0),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5}, 3.0),
    ],
)
def test_steps_that_the_folder_leaves_out_are_left_out(fields, white, tmp_path):
    settings(tmp_path, **fields)
    prepare = pictures_of(tmp_path, SIZES, CONFIG).prepare
    found = prepare(np.full((1, 8, 8, 3), 255, np.uint8))
    np.testing.assert_allclose(found, white, rtol=1e-5)


def test_settings_may_stand_beside_those_of_texts(tmp_path):
    images = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": images}))
    prepare = pictures_of(tmp_path, SIZES, CONFIG).prepare
    np.testing.assert_allclose(prepare(np.zeros((1, 8, 8, 3), np.uint8)), -2)


def test_a_folder_without_settings_prepares_nothing(tmp_path):
    found = pictures_of(tmp_path, {}, replace(CONFIG, classes=0))
    assert (found.prepare, found.labels, found.image_size) == (None, (), 8)


def test_settings_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="names 3 classes in id2label, the weights have 4"):
        pictures_of(tmp_path, SIZES, replace(CONFIG, classes=4))
    settings(tmp_path, image_mean=MEAN)
    with pytest.raises(ValueError, match="lack image_std: add it, or set do_normalize"):
        pictures_of(tmp_path, SIZES, CONFIG)
