"""A folder of the hub from a decoder of LLaMA's kin: `config.json`, weights, vocabulary."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint import Lazy, save_safetensors
from wlab.checkpoint.atomic import written_whole
from wlab.models import LlamaConfig
from wlab.pretrained import text
from wlab.pretrained.exporting import export
from wlab.pretrained.networks.hub_llama import family_of, hub_map, rope
from wlab.pretrained.networks.network import Network

_LLAMA_3 = {  # of 3.1, 3.2 and 3.3, which differ in the factor
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def save_hub(folder: str | Path, network: Network, *, dtype: str | None = None) -> None:
    """Writes what `from_hub` and the transformers package read; each file is whole or not there.

    Weights are read, turned and written one at a time.

    Args:
        folder: Is made if it is missing.
        network: From files of any kind. Its leaves may be `Lazy`.
        dtype: Of the weights; None stands for what they are.

    Raises:
        ValueError: As `to_hub`; or the tokenizer is not of the `tokenizers` package.
    """
    arrays, config = to_hub(network, dtype=dtype)
    write_folder(folder, arrays, config, network.tokenizer)


def to_hub(network: Network, *, dtype: str | None = None) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """The arrays of a decoder by the hub's names, and what its `config.json` says.

    Raises:
        ValueError: If the network is of another family, or no `config.json` says how its rotary
            angles are divided.
    """
    config = _config_json(network)
    arrays = export(network.params, hub_map(network.config))
    made = {name: array.plain(dtype) for name, array in arrays.items()}
    return made, config | {"torch_dtype": made["model.embed_tokens.weight"].dtype}


def write_folder(
    folder: str | Path,
    arrays: Mapping[str, Lazy],
    config: Mapping[str, Any],
    words: text.Tokenizer | None,
) -> None:
    """Writes what `to_hub` gives, and the vocabulary if there is one."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_safetensors(target / "model.safetensors", arrays, metadata={"format": "pt"})
    with written_whole(target / "config.json") as file:
        file.write(json.dumps(config, indent=2).encode())
    if words is not None:
        text.save_hub(target, words)


def _config_json(network: Network) -> dict[str, Any]:
    config, words = network.config, network.tokenizer
    family = family_of(config)
    if family is None:
        raise ValueError(
            f"to_hub: {type(config).__name__} is not of LLaMA's kin with rotary pairs as halves. "
            "Write its arrays by `export`, and its config.json as the hub has it."
        )
    if config.window and family != "llama":
        raise ValueError(f"to_hub: a {family} of the hub has no window of {config.window} tokens.")
    family = "mistral" if config.window else family
    ends = {} if words is None else {"bos_token_id": words.bos, "eos_token_id": words.eos}
    return {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.size,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope_base,
        "rope_scaling": _scaling(config),
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        **({"sliding_window": config.window} if config.window else {}),
        **ends,
    }


def _scaling(config: LlamaConfig) -> dict[str, Any] | None:
    """How the hub says what the rotary angles are divided by."""
    if not config.rope_factors:
        return None
    most = max(config.rope_factors)
    for said in ({"rope_type": "linear", "factor": most}, _LLAMA_3 | {"factor": most}):
        _, found = rope({"rope_theta": config.rope_base, "rope_scaling": said}, size=config.size)
        if np.allclose(found, config.rope_factors, rtol=1e-5, atol=0.0):
            return said
    raise ValueError("to_hub: no rope_scaling that wlab knows gives these rope_factors.")
