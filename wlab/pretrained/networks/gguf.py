"""A GGUF file of the LLaMA family: sizes, weights and vocabulary in one."""

from pathlib import Path
from typing import Any

from wlab.checkpoint import open_source
from wlab.models import LlamaConfig, llama
from wlab.pretrained import maps, text
from wlab.pretrained.networks.network import Network, filled


def from_gguf(path: str | Path, *, dtype: Any = None, **options: Any) -> Network:
    """The decoder in a GGUF file, its blocks decoded to float32 (extra `text` for its tokenizer).

    Args:
        path: The file.
        dtype: Of floating leaves; None stands for float32.
        options: As of `load`.

    Raises:
        ValueError: If it is no LLaMA, or file and network do not fit.
    """
    source = open_source(path)
    config = _config(source.metadata, tied="output.weight" not in source.arrays)
    model = llama(config)
    name_map = maps.llama_gguf(
        config.layers, heads=config.heads, kv_heads=config.kv_heads, tied=config.tied
    )
    words = text.from_gguf(source.metadata)
    return filled(model, config, source, name_map, tokenizer=words, dtype=dtype, **options)


def _config(metadata: Any, *, tied: bool) -> LlamaConfig:
    family = metadata.get("general.architecture")
    if family != "llama":
        raise ValueError(f"from_gguf: the network is a {family!r}, wlab knows 'llama'.")
    try:
        heads = metadata["llama.attention.head_count"]
        return LlamaConfig(
            layers=metadata["llama.block_count"],
            width=metadata["llama.embedding_length"],
            heads=heads,
            kv_heads=metadata.get("llama.attention.head_count_kv", heads),
            ffn=metadata["llama.feed_forward_length"],
            vocab=len(metadata["tokenizer.ggml.tokens"]),
            context=metadata["llama.context_length"],
            rope_base=metadata.get("llama.rope.freq_base", 10_000.0),
            epsilon=metadata["llama.attention.layer_norm_rms_epsilon"],
            tied=tied,
        )
    except KeyError as error:
        raise ValueError(f"from_gguf: the metadata lacks {error}.") from None
