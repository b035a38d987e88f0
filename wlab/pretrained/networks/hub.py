"""A folder of the hub: `config.json`, the weights whole or in shards, `tokenizer.json`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wlab.checkpoint import Source, open_source
from wlab.checkpoint.formats.json_text import json_object
from wlab.models import (
    CLIPConfig,
    EncoderConfig,
    LlamaConfig,
    Model,
    ViTConfig,
    encoder,
    llama,
)
from wlab.pretrained import maps, text
from wlab.pretrained.name_map import NameMap, prefixed
from wlab.pretrained.networks import hub_images
from wlab.pretrained.networks.network import Network, filled
from wlab.pretrained.networks.pictures import pictures

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def from_hub(folder: str | Path, *, dtype: Any = None, **options: Any) -> Network:
    """The network in a folder of the hub: BERT, LLaMA, ViT or CLIP.

    Args:
        folder: With `config.json` and the weights; `tokenizer.json` needs the extra `text`.
        dtype: Of floating leaves; None keeps the file's.
        options: As of `load`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the family is not known, or file and network do not fit.
    """
    folder = Path(folder)
    sizes = json_object(folder / "config.json")
    source = weights_of(folder)
    family = sizes.get("model_type")
    if family not in _FAMILIES:
        raise ValueError(
            f"{folder}: the network is a {family!r}; wlab knows {', '.join(_FAMILIES)}. Describe "
            "yours by a NameMap and use `wlab.pretrained.load`."
        )
    config, model, name_map = _FAMILIES[family](sizes, source)
    vocabulary = folder / "tokenizer.json"
    words = text.from_hub(vocabulary) if vocabulary.exists() else None
    network = filled(model, config, source, name_map, tokenizer=words, dtype=dtype, **options)
    if isinstance(config, CLIPConfig | ViTConfig):
        return replace(network, **vars(pictures(folder, sizes, config)))
    return network


def weights_of(folder: Path) -> Source:
    """The weights in a folder of the hub, in one file or in shards, opened.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are damaged.
    """
    found = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(_WEIGHTS)}.")
    return open_source(found)


def _bert(sizes: dict[str, Any], source: Source) -> tuple[Any, Model, NameMap]:
    config = EncoderConfig(
        layers=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        vocab=sizes["vocab_size"],
        context=sizes["max_position_embeddings"],
        ffn=sizes["intermediate_size"],
        types=sizes["type_vocab_size"],
    )
    name_map = maps.bert(config.layers, context=config.context)
    if all(name.startswith("bert.") for name in source.arrays):
        name_map = prefixed(name_map, "bert.")
    return config, encoder(config), name_map


def _llama(sizes: dict[str, Any], source: Source) -> tuple[Any, Model, NameMap]:
    del source
    rope = sizes.get("rope_parameters") or {}
    config = LlamaConfig(
        layers=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        kv_heads=sizes.get("num_key_value_heads", sizes["num_attention_heads"]),
        ffn=sizes["intermediate_size"],
        vocab=sizes["vocab_size"],
        context=sizes["max_position_embeddings"],
        rope_base=float(sizes.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
        epsilon=sizes["rms_norm_eps"],
        tied=sizes.get("tie_word_embeddings", False),
    )
    for name in ("attention_bias", "mlp_bias", "rope_scaling"):
        if sizes.get(name):
            raise ValueError(f"config.json asks for {name}={sizes[name]!r}, which llama() lacks.")
    return config, llama(config), maps.llama_hub(config.layers, tied=config.tied)


_FAMILIES: dict[str, Callable[[dict[str, Any], Source], tuple[Any, Model, NameMap]]] = {
    "bert": _bert,
    "clip": hub_images.clip,
    "llama": _llama,
    "vit": hub_images.vit,
}
