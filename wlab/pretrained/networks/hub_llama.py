"""What a folder of the hub says of a decoder of LLaMA's kin: sizes, functions, names."""

import math
from typing import Any

from wlab.checkpoint import Source
from wlab.models import LlamaConfig, Model
from wlab.models import llama as llama_model
from wlab.pretrained.maps.llama import llama_hub as llama_map
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.networks.hub_words import refuse_other

# What each has, by the names that the hub and llama.cpp share; Mistral is a LLaMA.
PARTS: dict[str, dict[str, Any]] = {
    "llama": {"qkv_bias": False, "qk_norm": False},
    "qwen2": {"qkv_bias": True, "qk_norm": False},
    "qwen3": {"qkv_bias": False, "qk_norm": True},
}
FAMILIES = (*PARTS, "mistral")
_WINDOW = {"mistral": 4096}  # tokens that attention sees back, where config.json does not say
_HEAD_SIZE = {"qwen3": 128}


def llama(sizes: dict[str, Any], source: Source) -> tuple[LlamaConfig, Model, NameMap]:
    """LLaMA, Mistral, Qwen2 or Qwen3, from its `...ForCausalLM`.

    Raises:
        ValueError: If `config.json` asks for what `llama()` lacks, as a sliding window.
    """
    del source
    family, width, heads = (sizes[n] for n in ("model_type", "hidden_size", "num_attention_heads"))
    refuse_other(sizes, "hidden_act", known="silu")
    refuse_other(sizes, "partial_rotary_factor", known=1.0)
    for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if sizes.get(name):
            raise ValueError(f"config.json asks for {name}={sizes[name]!r}, which llama() lacks.")
    head_size = sizes.get("head_dim") or _HEAD_SIZE.get(family, 0)
    base, factors = rope(sizes, size=head_size or width // heads)
    config = LlamaConfig(
        layers=sizes["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=sizes.get("num_key_value_heads", heads),
        ffn=sizes["intermediate_size"],
        vocab=sizes["vocab_size"],
        context=sizes["max_position_embeddings"],
        rope_base=base,
        epsilon=sizes["rms_norm_eps"],
        tied=sizes.get("tie_word_embeddings", False),
        head_size=0 if head_size * heads == width else head_size,
        rope_factors=factors,
        window=_window(sizes, family),
        **PARTS[family if family in PARTS else "llama"],
    )
    return config, llama_model(config), hub_map(config)


def hub_map(config: LlamaConfig) -> NameMap:
    """How the hub names the leaves of a decoder."""
    return llama_map(
        config.layers, tied=config.tied, qkv_bias=config.qkv_bias, qk_norm=config.qk_norm
    )


def family_of(config: Any) -> str | None:
    """The family that has just the parts of this decoder; None for any other network."""
    if isinstance(config, LlamaConfig) and config.rotary == "halves":
        for family, parts in PARTS.items():
            if all(getattr(config, name) == has for name, has in parts.items()):
                return family
    return None


def _window(sizes: dict[str, Any], family: str) -> int:
    """How many tokens each sees; 0 where that is all."""
    window = sizes.get("sliding_window", _WINDOW[family]) if family in _WINDOW else None
    return window if window is not None and window < sizes["max_position_embeddings"] else 0


def rope(sizes: dict[str, Any], *, size: int) -> tuple[float, tuple[float, ...]]:
    """The base of the rotary angles, and what the angle of each pair is divided by.

    Raises:
        ValueError: If `config.json` asks for a kind that is not known.
    """
    said = sizes.get("rope_parameters") or sizes.get("rope_scaling") or {}
    base = float(sizes.get("rope_theta") or said.get("rope_theta") or 10_000.0)
    kind = said.get("rope_type", said.get("type", "no kind" if "factor" in said else "default"))
    if kind == "default":
        return base, ()
    try:
        if kind == "linear":
            return base, (float(said["factor"]),) * (size // 2)
        if kind == "llama3":
            waves = [2 * math.pi * base ** (2 * j / size) for j in range(size // 2)]
            return base, tuple(_llama3(wave, said) for wave in waves)
    except KeyError as error:
        raise ValueError(f"config.json: rope_scaling of {kind!r} lacks {error}.") from None
    raise ValueError(
        f"config.json asks for rope_scaling={said!r}; llama() knows default, linear and llama3."
    )


def _llama3(wave: float, said: dict[str, Any]) -> float:
    """By how much a pair turns slower that turns once in `wave` tokens.

    Pairs that turned often in the context of the first training keep their angle, those that
    turned rarely are slower by the whole factor; between, what the angle is multiplied by is
    interpolated.
    """
    factor, low, high = (said[f"{n}factor"] for n in ("", "low_freq_", "high_freq_"))
    turned = said["original_max_position_embeddings"] / wave  # so many times
    share = min(max((turned - low) / (high - low), 0.0), 1.0)
    return 1.0 / ((1 - share) / factor + share)
