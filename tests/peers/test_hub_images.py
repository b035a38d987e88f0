"""ViT and CLIP as transformers builds, saves and computes them; `make test-peers` installs it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from wlab import tree
from wlab.checkpoint import Lazy, Source, save_safetensors
from wlab.models import ViTConfig, vit
from wlab.pretrained import Network, export, from_hub, plan
from wlab.pretrained.networks import hub_images
from wlab.pretrained.networks.pictures import pictures as pictures_of

IMAGES = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
TEXTS = np.array([[29, 3, 1, 30, 0, 0, 0], [29, 4, 1, 5, 9, 2, 30], [29, 30, 0, 0, 0, 0, 0]])
SHOWN = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7, [1, 1, 0, 0, 0, 0, 0]], bool)
HOLES = np.array([[1, 0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 1, 0, 1]], bool)
TOWER = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def saved(model, folder):
    """Weights that are all random, since zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3, generator=generator)
    model.eval().save_pretrained(folder)
    return model


def back(kind, network: Network, folder):
    """What transformers reads from our file, in the folder of theirs."""
    save_safetensors(folder / "model.safetensors", export(network.params, network.name_map))
    model, said = kind.from_pretrained(folder, output_loading_info=True)
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not said[fault]
    return model.eval()


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images.transpose(0, 3, 1, 2))


def assert_near(ours, theirs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-4)


def vit_config(**changes: object) -> transformers.ViTConfig:
    sizes = TOWER | {"hidden_size": 20, "image_size": 16, "patch_size": 4, "num_labels": 5}
    return transformers.ViTConfig(**(sizes | changes))


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_vit_that_classifies(qkv_bias, tmp_path):
    kind = transformers.ViTForImageClassification
    theirs = saved(kind(vit_config(qkv_bias=qkv_bias)), tmp_path)
    network = from_hub(tmp_path)
    assert tree.count(network.params) == theirs.num_parameters()
    pixels = nchw(IMAGES)
    with torch.no_grad():
        expected = theirs(pixels).logits
        assert_near(jax.jit(network.model.apply)(network.params, jnp.array(IMAGES)), expected)
        assert torch.equal(back(kind, network, tmp_path)(pixels).logits, expected)
    sizes = json.loads((tmp_path / "config.json").read_text())
    labels = pictures_of(tmp_path, sizes, network.config).labels
    assert labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4")


def test_a_vit_without_classes(tmp_path):
    theirs = saved(transformers.ViTModel(vit_config()), tmp_path)
    network = from_hub(tmp_path)
    ours = jax.jit(network.model.apply)(network.params, jnp.array(IMAGES))
    with torch.no_grad():
        expected = theirs(nchw(IMAGES))
        assert_near(ours.states, expected.last_hidden_state)
        assert_near(ours.pooled, expected.pooler_output)
        again = back(transformers.ViTModel, network, tmp_path)(nchw(IMAGES))
    assert torch.equal(again.pooler_output, expected.pooler_output)


def clip_config(end: int = 30, act: str = "quick_gelu") -> transformers.CLIPConfig:
    text = {"hidden_size": 12, "vocab_size": 31, "max_position_embeddings": 9, "eos_token_id": end}
    vision = {"hidden_size": 20, "image_size": 16, "patch_size": 4}
    return transformers.CLIPConfig(
        text_config=TOWER | text | {"hidden_act": act},
        vision_config=TOWER | vision | {"hidden_act": act},
        projection_dim=10,
    )


@pytest.mark.parametrize("mask", [None, SHOWN, HOLES], ids=["no mask", "padding", "holes"])
@pytest.mark.parametrize(("end", "act"), [(30, "quick_gelu"), (2, "gelu")])
def test_a_clip(end, act, mask, tmp_path):
    theirs = saved(transformers.CLIPModel(clip_config(end, act)), tmp_path)
    network = from_hub(tmp_path)
    assert tree.count(network.params) == theirs.num_parameters()
    shown = {} if mask is None else {"mask": jnp.array(mask)}
    attended = {} if mask is None else {"attention_mask": torch.tensor(mask).long()}
    given = {"input_ids": torch.tensor(TEXTS), "pixel_values": nchw(IMAGES), **attended}

    @jax.jit
    def ours(params):
        images, texts = jnp.array(IMAGES), jnp.array(TEXTS)
        return (
            network.model.apply(params, images, method="encode_image"),
            network.model.apply(params, texts, method="encode_text", **shown),
            network.model.apply(params, images, texts, **shown),
        )

    with torch.no_grad():
        expected = theirs(**given)
        images, texts, logits = ours(network.params)
        assert_near(images, theirs.get_image_features(given["pixel_values"]).pooler_output)
        features = theirs.get_text_features(given["input_ids"], **attended).pooler_output
        assert_near(texts, features)
        assert_near(logits, expected.logits_per_image)
        again = back(transformers.CLIPModel, network, tmp_path)(**given)
    assert torch.equal(again.logits_per_image, expected.logits_per_image)


def test_the_published_vit_has_as_many_weights():
    with torch.device("meta"):
        theirs = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    ours = ViTConfig(layers=12, width=768, heads=12, image_size=224, patch=16, classes=1000)
    count = tree.count(jax.eval_shape(vit(ours).init, jax.random.key(0)))
    assert count == theirs.num_parameters() == 86_567_656


def test_the_published_clip_has_the_names_and_shapes_of_the_map():
    with torch.device("meta"):
        theirs = transformers.CLIPModel(transformers.CLIPConfig())
    arrays = {
        name: Lazy(tuple(p.shape), "float32", 4 * p.numel(), lambda: np.empty(0))
        for name, p in theirs.named_parameters()
    }
    sizes = theirs.config.to_dict()
    _, model, name_map = hub_images.clip(sizes, Source(Path("meta"), "torch", arrays))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert tree.count(params) == theirs.num_parameters() == 151_277_313
    planned = plan(arrays, name_map, params)
    assert planned.count("loaded") == len(planned.lines) == len(arrays)


@pytest.mark.parametrize("kind", [ViTImageProcessorPil, CLIPImageProcessorPil])
def test_images_are_prepared_as_their_processors_do(kind, tmp_path):
    theirs = kind()
    theirs.save_pretrained(tmp_path)
    config = ViTConfig(layers=1, width=4, heads=1, image_size=224, patch=16)
    prepare = pictures_of(tmp_path, {}, config).prepare
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    expected = theirs(list(pixels), return_tensors="np").pixel_values
    np.testing.assert_allclose(prepare(pixels).transpose(0, 3, 1, 2), expected, atol=1e-5)
