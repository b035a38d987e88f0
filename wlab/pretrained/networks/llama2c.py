"""A llama2.c file, with its tokenizer behind it or in a file of its own."""

from pathlib import Path
from typing import Any

from wlab.checkpoint import open_llama2c
from wlab.models import LlamaConfig, llama
from wlab.pretrained import maps, text
from wlab.pretrained.networks.network import Network, filled


def from_llama2c(
    path: str | Path,
    *,
    end: int | None = None,
    tokenizer: str | Path | None = None,
    dtype: Any = None,
    **options: Any,
) -> Network:
    """The decoder in a llama2.c file (extra `text` for its tokenizer).

    Args:
        path: The file.
        end: The byte at which the model ends, if the tokenizer follows it in the same file.
        tokenizer: The tokenizer's own file.
        dtype: Of floating leaves; None stands for float32.
        options: As of `load`, and `lazy`, see `filled`.

    Raises:
        ValueError: If the file is damaged.
    """
    source = open_llama2c(Path(path), end=end)
    sizes = source.metadata
    config = LlamaConfig(
        layers=sizes["n_layers"],
        width=sizes["dim"],
        heads=sizes["n_heads"],
        kv_heads=sizes["n_kv_heads"],
        ffn=sizes["hidden_dim"],
        vocab=sizes["vocab_size"],
        context=sizes["seq_len"],
        tied=sizes["shared_classifier"],
    )
    model = llama(config)
    name_map = maps.llama2c(
        config.layers, heads=config.heads, kv_heads=config.kv_heads, tied=config.tied
    )
    words = None
    if tokenizer is not None:
        words = text.from_llama2c(tokenizer)
    elif end is not None:
        words = text.from_llama2c(path, offset=end)
    return filled(model, config, source, name_map, tokenizer=words, dtype=dtype, **options)
