"""A folder of the hub: `config.json`, the weights whole or in shards, a vocabulary."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wlab.checkpoint import Source, open_source
from wlab.checkpoint.formats.json_text import json_object
from wlab.models import CLIPConfig, Model, ViTConfig
from wlab.pretrained import text
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.networks import hub_images, hub_llama, hub_text
from wlab.pretrained.networks.network import Network, filled
from wlab.pretrained.networks.pictures import pictures

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def from_hub(folder: str | Path, *, dtype: Any = None, **options: Any) -> Network:
    """The network in a folder of the hub.

    ALBERT, BERT, CLIP, GPT-2, LLaMA, Mistral, Qwen2, Qwen3, T5 or ViT.

    Args:
        folder: With `config.json` and the weights; `tokenizer.json`, or `vocab.json` with
            `merges.txt`, needs the extra `text`.
        dtype: Of floating leaves; None keeps the file's.
        options: As of `load`, and `lazy`, see `filled`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the family is not known, or file and network do not fit.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} is no folder with a config.json. "
            "`hf download OWNER/NAME --local-dir FOLDER` gets one from the hub."
        )
    sizes = json_object(folder / "config.json")
    source = weights_of(folder)
    family = sizes.get("model_type")
    if family not in _FAMILIES:
        raise ValueError(
            f"{folder}: the network is a {family!r}; wlab knows {', '.join(_FAMILIES)}. Describe "
            "yours by a NameMap and use `wlab.pretrained.load`."
        )
    config, model, name_map = _FAMILIES[family](sizes, source)
    words = _tokenizer(folder, sizes)
    network = filled(model, config, source, name_map, tokenizer=words, dtype=dtype, **options)
    if isinstance(config, CLIPConfig | ViTConfig):
        return replace(network, **vars(pictures(folder, sizes, config)))
    return network


def _tokenizer(folder: Path, sizes: Mapping[str, Any]) -> text.Tokenizer | None:
    whole, pair = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    if whole.exists():
        return text.with_settings(text.from_hub(whole), folder, sizes)
    return text.from_merges(*pair) if all(file.exists() for file in pair) else None


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


_FAMILIES: dict[str, Callable[[dict[str, Any], Source], tuple[Any, Model, NameMap]]] = {
    "albert": hub_text.albert,
    "bert": hub_text.bert,
    "clip": hub_images.clip,
    "gpt2": hub_text.gpt2,
    **dict.fromkeys(hub_llama.FAMILIES, hub_llama.llama),
    "t5": hub_text.t5,
    "vit": hub_images.vit,
}
