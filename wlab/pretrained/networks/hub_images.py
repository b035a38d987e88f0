"""Networks of the hub that read images: ViT and CLIP."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from wlab import models
from wlab.checkpoint import Source
from wlab.models import CLIPConfig, Model, Tower, ViTConfig
from wlab.pretrained.maps.clip import clip as clip_map
from wlab.pretrained.maps.vit import vit as vit_map
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.networks.hub_words import hub_activation, refuse_other

# What the hub's files leave out where it is the default of their kind.
_VIT = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "num_channels": 3,
    "pooler_act": "tanh",
    "qkv_bias": True,
}
_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49_407,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "model_type": "clip_vision_model",
}
_HIGHEST = 2  # older files name this end token and mean the highest number in a text
_RESNET = re.compile(r"visual\.(layer\d|attnpool)\..*|vision_model\..*(attnpool|running_mean).*")


def vit(sizes: dict[str, Any], source: Source) -> tuple[ViTConfig, Model, NameMap]:
    """A ViT by its `config.json`; whether it has classes and a pooler, the file says.

    Raises:
        ValueError: If it has a part that `wlab.models.vit` lacks.
    """
    sizes = _VIT | sizes
    refuse_other(sizes, "hidden_act", known="gelu")
    refuse_other(sizes, "pooler_act", known="tanh")
    names, width = source.arrays, sizes["hidden_size"]
    prefix = "vit." if any(name.startswith("vit.") for name in names) else ""
    head = names.get("classifier.weight")
    pooler = head is None and f"{prefix}pooler.dense.weight" in names
    if pooler and sizes.get("pooler_output_size"):
        refuse_other(sizes, "pooler_output_size", known=width)
    config = ViTConfig(
        layers=sizes["num_hidden_layers"],
        width=width,
        heads=sizes["num_attention_heads"],
        image_size=_side(sizes, "image_size"),
        patch=_side(sizes, "patch_size"),
        ffn=sizes["intermediate_size"],
        classes=0 if head is None else head.shape[0],
        pooler=pooler,
        qkv_biases=sizes["qkv_bias"],
        channels=sizes["num_channels"],
        epsilon=sizes["layer_norm_eps"],
    )
    name_map = vit_map(
        config.layers,
        width=width,
        places=_places(config),
        head=head is not None,
        pooler=pooler,
        qkv_biases=config.qkv_biases,
        prefix=prefix,
    )
    return config, models.vit(config), name_map


def clip(sizes: dict[str, Any], source: Source) -> tuple[CLIPConfig, Model, NameMap]:
    """A CLIP by its `config.json`, both towers transformers.

    Raises:
        ValueError: If the tower for images is a ResNet, or a part is one that `wlab.models.clip`
            lacks.
    """
    text, vision = (
        defaults | (sizes.get(f"{kind}_config") or {}) | (sizes.get(f"{kind}_config_dict") or {})
        for kind, defaults in (("text", _TEXT), ("vision", _VISION))
    )
    _refuse_resnet(vision, source)
    refuse_other(vision, "model_type", known="clip_vision_model")
    refuse_other(vision, "num_channels", known=3)
    end = text["eos_token_id"]
    if not isinstance(end, int):
        raise ValueError(f"config.json names {end!r} as eos_token_id; clip() ends texts at one.")
    config = CLIPConfig(
        text=_tower(text),
        vision=_tower(vision),
        features=sizes.get("projection_dim", 512),
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
        image_size=_side(vision, "image_size"),
        patch=_side(vision, "patch_size"),
        end=None if end == _HIGHEST else end,
    )
    name_map = clip_map(
        text_layers=config.text.layers,
        vision_layers=config.vision.layers,
        vision_width=config.vision.width,
        context=config.context,
        places=_places(config),
    )
    return config, models.clip(config), name_map


def _tower(sizes: Mapping[str, Any]) -> Tower:
    return Tower(
        layers=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        ffn=sizes["intermediate_size"],
        activation=hub_activation(sizes["hidden_act"]),
        epsilon=sizes["layer_norm_eps"],
    )


def _places(config: ViTConfig | CLIPConfig) -> int:
    return 1 + (config.image_size // config.patch) ** 2


def _side(sizes: Mapping[str, Any], name: Literal["image_size", "patch_size"]) -> int:
    """The side of a square, which some files give twice."""
    found = sizes[name]
    height, width = (found, found) if isinstance(found, int) else found
    if height != width:
        raise ValueError(f"config.json asks for {name}={found}; wlab reads squares only.")
    return height


def _refuse_resnet(vision: Mapping[str, Any], source: Source) -> None:
    """By the names of its arrays, or by the sizes, where the depths of its stages are a list."""
    named = next((name for name in source.arrays if _RESNET.fullmatch(name)), None)
    depths, kind = vision.get("layers"), vision["model_type"]
    if named or isinstance(depths, list) or "resnet" in kind:
        found = f"array {named!r}" if named else f"layers={depths}, model_type={kind!r}"
        raise ValueError(
            f"{source.path}: the tower for images of this CLIP is a ResNet ({found}); clip() has "
            "vision transformers only: take a version whose name begins with ViT."
        )
