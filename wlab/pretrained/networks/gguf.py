"""A GGUF file of the LLaMA family: sizes, weights and vocabulary in one, out of it and into it."""

from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy, open_source
from wlab.models import LlamaConfig, llama
from wlab.pretrained import maps, text
from wlab.pretrained.exporting import export
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.networks.network import Network, filled

_SIZES = {
    "layers": "llama.block_count",
    "width": "llama.embedding_length",
    "heads": "llama.attention.head_count",
    "kv_heads": "llama.attention.head_count_kv",
    "ffn": "llama.feed_forward_length",
    "context": "llama.context_length",
    "rope_base": "llama.rope.freq_base",
    "epsilon": "llama.attention.layer_norm_rms_epsilon",
}
_TURNED = "llama.rope.dimension_count"  # entries of a head
_SCALING = "llama.rope.scaling.type"
_FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}  # llama.cpp's, of most arrays


def from_gguf(path: str | Path, *, dtype: Any = None, **options: Any) -> Network:
    """The decoder in a GGUF file, its blocks decoded to float32 (extra `text` for its tokenizer).

    Args:
        path: The file.
        dtype: Of floating leaves; None stands for float32.
        options: As of `load`, and `lazy`, see `filled`.

    Raises:
        ValueError: If it is no LLaMA, or file and network do not fit.
    """
    source = open_source(path)
    config = _config(source.metadata, tied="output.weight" not in source.arrays)
    words = text.from_gguf(source.metadata)
    model, name_map = llama(config), gguf_map(config)
    return filled(model, config, source, name_map, tokenizer=words, dtype=dtype, **options)


def to_gguf(
    network: Network, *, dtype: str | None = None
) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """What llama.cpp reads a decoder of the LLaMA family from: arrays and metadata.

    `wlab.checkpoint.save_gguf(path, arrays, metadata=metadata)` reads, turns and writes one leaf at
    a time.

    Args:
        network: From files of any kind, with its tokenizer. Its leaves may be `Lazy`.
        dtype: Of matrices; None stands for what they are. Vectors are float32, as llama.cpp wants.

    Returns:
        The arrays by ggml's names, and sizes and vocabulary by llama.cpp's.

    Raises:
        ValueError: If the network is of another family or has no tokenizer, or llama.cpp has no
            name for how its vocabulary cuts texts.
    """
    arrays = export(network.params, gguf_map(network.config))
    made = {
        name: array.astype("float32" if len(array.shape) < 2 else dtype or array.dtype)
        for name, array in arrays.items()
    }
    most = made["token_embd.weight"].dtype
    return made, gguf_metadata(network) | {"general.file_type": _FILE_TYPES[most]}


def gguf_map(config: Any) -> NameMap:
    """How GGUF files name the leaves of a decoder.

    Raises:
        ValueError: If it is none of the LLaMA family.
    """
    if not isinstance(config, LlamaConfig) or config.rotary != "halves":
        kind = type(config).__name__
        raise ValueError(
            f"to_gguf: a GGUF file takes a LLaMA whose rotary pairs are halves, not a {kind}."
        )
    return maps.llama_gguf(
        config.layers, heads=config.heads, kv_heads=config.kv_heads, tied=config.tied
    )


def gguf_metadata(network: Network) -> dict[str, Any]:
    """Sizes and vocabulary as llama.cpp reads them.

    Raises:
        ValueError: As `to_gguf`.
    """
    config, words = network.config, network.tokenizer
    gguf_map(config)
    if words is None:
        raise ValueError(
            "to_gguf: the network has no tokenizer, and llama.cpp reads none elsewhere."
        )
    return {
        "general.architecture": "llama",
        **{key: getattr(config, name) for name, key in _SIZES.items()},
        "llama.vocab_size": config.vocab,
        _TURNED: config.width // config.heads,
        **text.to_gguf(words, size=config.vocab),
    }


def _config(metadata: Any, *, tied: bool) -> LlamaConfig:
    family = metadata.get("general.architecture")
    if family != "llama":
        raise ValueError(f"from_gguf: the network is a {family!r}, wlab knows 'llama'.")
    found: dict[str, Any] = {"llama.rope.freq_base": 10_000.0} | dict(metadata)
    found.setdefault(_SIZES["kv_heads"], found.get(_SIZES["heads"]))
    try:
        sizes = {name: found[key] for name, key in _SIZES.items()}
        config = LlamaConfig(**sizes, vocab=len(found["tokenizer.ggml.tokens"]), tied=tied)
    except KeyError as error:
        raise ValueError(f"from_gguf: the metadata lacks {error}.") from None
    whole = config.width // config.heads
    for key, known in ((_TURNED, whole), (_SCALING, "none")):
        if metadata.get(key, known) != known:
            raise ValueError(f"from_gguf: {key} is {metadata[key]!r}; llama() knows {known!r}.")
    return config
