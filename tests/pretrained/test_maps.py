"""Maps in the true names and shapes of the hub, on files of random numbers: there and back."""

import jax
import numpy as np
import pytest

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.models import (
    CLIPConfig,
    EncoderConfig,
    LlamaConfig,
    Tower,
    ViTConfig,
    clip,
    encoder,
    llama,
    resnet,
    vit,
)
from wlab.models.resnet import ResNetConfig
from wlab.pretrained import export, load, maps

ENCODER = EncoderConfig(layers=2, width=8, heads=2, vocab=11, context=6, ffn=12)
LLAMA = LlamaConfig(layers=2, width=8, heads=4, kv_heads=2, ffn=12, vocab=11, context=6)
UNTIED = LlamaConfig(**{**vars(LLAMA), "tied": False})
RESNET = ResNetConfig((1, 2, 1), (4, 6, 8), 5)
VIT = ViTConfig(layers=2, width=8, heads=2, image_size=8, patch=4, ffn=12, classes=5)
BARE = ViTConfig(**{**vars(VIT), "classes": 0, "pooler": True, "qkv_biases": False})
CLIP = CLIPConfig(Tower(2, 8, 2, ffn=12), Tower(1, 12, 3), 6, 17, 7, 8, 4, end=15)


def _shapes(model) -> dict:
    found = jax.eval_shape(model.init, jax.random.key(0))
    return (
        dict(zip(("params", "model_state"), found, strict=True)) if type(found) is tuple else found
    )


CASES = {
    "bert": (maps.bert(2, context=6), encoder(ENCODER)),
    "llama_hub": (maps.llama_hub(2, tied=True), llama(LLAMA)),
    "llama_hub untied": (maps.llama_hub(2, tied=False), llama(UNTIED)),
    "llama_gguf": (maps.llama_gguf(2, heads=4, kv_heads=2, tied=True), llama(LLAMA)),
    "llama2c": (maps.llama2c(2, heads=4, kv_heads=2, tied=False), llama(UNTIED)),
    "resnet_cifar": (maps.resnet_cifar((1, 2, 1)), resnet(RESNET)),
    "vit": (maps.vit(2, width=8, places=5, head=True, prefix="vit."), vit(VIT)),
    "vit bare": (
        maps.vit(2, width=8, places=5, head=False, pooler=True, qkv_biases=False),
        vit(BARE),
    ),
    "clip": (
        maps.clip(text_layers=2, vision_layers=1, vision_width=12, context=7, places=5),
        clip(CLIP),
    ),
}


@pytest.mark.parametrize(("name_map", "model"), CASES.values(), ids=CASES)
def test_tree_to_file_to_tree_is_bit_identical(name_map, model, tmp_path):
    rng = np.random.default_rng(0)
    like = _shapes(model)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), like)
    save_safetensors(tmp_path / "w.safetensors", export(params, name_map))
    source = open_source(tmp_path / "w.safetensors")
    assert set(source.arrays) == set(name_map.theirs)
    again = tree.leaves(load(source, name_map, like).params)
    for path, leaf in tree.leaves(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
