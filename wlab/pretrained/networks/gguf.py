"""A GGUF file of LLaMA and its kin: sizes, weights and vocabulary in one, out of it and into it."""

from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy, Source, open_source
from wlab.models import LlamaConfig, llama
from wlab.pretrained import maps, text
from wlab.pretrained.exporting import export
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.networks.hub_llama import PARTS, family_of
from wlab.pretrained.networks.network import Network, filled

_SIZES = {
    "layers": "block_count",
    "width": "embedding_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "ffn": "feed_forward_length",
    "context": "context_length",
    "rope_base": "rope.freq_base",
    "epsilon": "attention.layer_norm_rms_epsilon",
}
_HEAD = ("attention.key_length", "attention.value_length")  # said where width / heads is another
_TURNED = "rope.dimension_count"  # how many entries of a head are turned
_SCALING = "rope.scaling.type"
_FACTORS = "rope_freqs.weight"  # an array: what rotary angles are divided by
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
    config = _config(source)
    words = text.from_gguf(source.metadata)
    model, name_map = llama(config), gguf_map(config)
    return filled(model, config, source, name_map, tokenizer=words, dtype=dtype, **options)


def to_gguf(
    network: Network, *, dtype: str | None = None
) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """What llama.cpp reads a decoder of LLaMA's kin from: arrays and metadata.

    `wlab.checkpoint.save_gguf(path, arrays, metadata=metadata)` reads, turns and writes one leaf at
    a time.

    llama.cpp gives these no window of attention. Where a network has one, the file says that its
    context is as long: up to there both compute the same.

    Args:
        network: From files of any kind, with its tokenizer. Its leaves may be `Lazy`.
        dtype: Of matrices; None stands for what they are. Vectors are float32, as llama.cpp wants.

    Returns:
        The arrays by ggml's names, and sizes and vocabulary by llama.cpp's.

    Raises:
        ValueError: If the network is of another family or has no tokenizer, or llama.cpp has no
            name for how its vocabulary cuts texts.
    """
    arrays = gguf_arrays(network, dtype=dtype)
    most = arrays["token_embd.weight"].dtype
    return arrays, gguf_metadata(network) | {"general.file_type": _FILE_TYPES[most]}


def gguf_arrays(network: Network, *, dtype: str | None = None) -> dict[str, Lazy]:
    """The leaves as arrays of a GGUF file, and what such a file says by an array that is no leaf.

    Raises:
        ValueError: If the network is none of LLaMA's kin.
    """
    name_map = gguf_map(network.config)
    names = [*name_map.theirs, *name_map.constants]
    arrays = export(network.params, name_map, names=names)
    return {n: x.plain("float32" if len(x.shape) < 2 else dtype) for n, x in arrays.items()}


def gguf_map(config: Any) -> NameMap:
    """How GGUF files name the leaves of a decoder.

    Raises:
        ValueError: If it is none of LLaMA's kin.
    """
    return maps.llama_gguf(
        config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        tied=config.tied,
        interleaved=_family(config) == "llama",
        qkv_bias=config.qkv_bias,
        qk_norm=config.qk_norm,
        rope_factors=config.rope_factors,
    )


def gguf_metadata(network: Network) -> dict[str, Any]:
    """Sizes and vocabulary as llama.cpp reads them.

    Raises:
        ValueError: As `to_gguf`.
    """
    config, words = network.config, network.tokenizer
    family = _family(config)
    if words is None:
        raise ValueError("to_gguf: the network has no tokenizer, which a GGUF file holds.")
    heads = dict.fromkeys(_HEAD, config.size) if config.head_size else {}
    sizes = {key: getattr(config, name) for name, key in _SIZES.items()} | heads
    if config.window:  # which llama.cpp does not know: up to there it computes the same
        sizes[_SIZES["context"]] = config.window
    return {
        "general.architecture": family,
        **{f"{family}.{key}": value for key, value in sizes.items()},
        f"{family}.vocab_size": config.vocab,
        f"{family}.{_TURNED}": config.size,
        **text.to_gguf(words, size=config.vocab),
    }


def _family(config: Any) -> str:
    """What llama.cpp calls the architecture."""
    family = family_of(config)
    if family is None:
        raise ValueError(
            f"to_gguf: llama.cpp has no name for a {type(config).__name__} of this kind; wlab "
            f"knows {', '.join(PARTS)}, their rotary pairs as halves."
        )
    return family


def _config(source: Source) -> LlamaConfig:
    """The sizes that the metadata states, and angles that an array does."""
    family = source.metadata.get("general.architecture")
    if family not in PARTS:
        raise ValueError(f"from_gguf: the network is a {family!r}, wlab knows {', '.join(PARTS)}.")
    said = {
        key.removeprefix(f"{family}."): value
        for key, value in source.metadata.items()
        if key.startswith(f"{family}.")
    }
    said = {"rope.freq_base": 10_000.0, _SIZES["kv_heads"]: said.get(_SIZES["heads"])} | said
    try:
        sizes = {name: said[key] for name, key in _SIZES.items()}
        vocab = len(source.metadata["tokenizer.ggml.tokens"])
    except KeyError as error:
        raise ValueError(f"from_gguf: the metadata of this {family} lacks {error}.") from None
    for name in sizes.keys() - {"rope_base", "epsilon"}:
        if type(sizes[name]) is not int or sizes[name] < 1:
            raise ValueError(f"from_gguf: {family}.{_SIZES[name]} is {sizes[name]!r}, not a size.")
    usual = sizes["width"] // sizes["heads"]
    size = said.get(_HEAD[0], usual)
    for key, known in ((_HEAD[1], size), (_TURNED, size), (_SCALING, "none")):
        if said.get(key, known) != known:
            raise ValueError(f"from_gguf: {key} is {said[key]!r}; llama() knows {known!r}.")
    slower = source.arrays[_FACTORS].read().tolist() if _FACTORS in source.arrays else ()
    return LlamaConfig(
        **sizes,
        vocab=vocab,
        tied="output.weight" not in source.arrays,
        head_size=0 if size == usual else size,
        rope_factors=tuple(slower),
        **PARTS[family],
    )
