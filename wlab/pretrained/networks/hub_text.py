"""What a folder of the hub says of language networks: sizes, functions and names."""

from typing import Any

from wlab.checkpoint import Source
from wlab.models import (
    EncoderConfig,
    Model,
    T5Config,
    TransformerConfig,
    encoder,
    transformer,
)
from wlab.models import t5 as t5_model
from wlab.pretrained.maps.albert import albert as albert_map
from wlab.pretrained.maps.bert import bert as bert_map
from wlab.pretrained.maps.gpt2 import gpt2 as gpt2_map
from wlab.pretrained.maps.t5 import t5 as t5_map
from wlab.pretrained.name_map import NameMap, prefixed
from wlab.pretrained.networks.hub_words import hub_activation, refuse_other

_HEAD = "lm_head.weight"


def gpt2(sizes: dict[str, Any], source: Source) -> tuple[TransformerConfig, Model, NameMap]:
    """GPT-2, from a `GPT2LMHeadModel` or a `GPT2Model`.

    Raises:
        ValueError: If `config.json` asks for what `transformer()` lacks.
    """
    refuse_other(sizes, "scale_attn_weights", known=True)
    refuse_other(sizes, "scale_attn_by_inverse_layer_idx", known=False)
    refuse_other(sizes, "add_cross_attention", known=False)
    config = TransformerConfig(
        layers=sizes["n_layer"],
        width=sizes["n_embd"],
        heads=sizes["n_head"],
        vocab=sizes["vocab_size"],
        context=sizes["n_positions"],
        ffn=sizes.get("n_inner") or 0,
        tied=sizes.get("tie_word_embeddings", True),
        epsilon=sizes.get("layer_norm_epsilon", 1e-5),
        activation=hub_activation(sizes.get("activation_function", "gelu_new")),
    )
    name_map = gpt2_map(
        config.layers, width=config.width, tied=config.tied, prefix=_prefix(source, "transformer.")
    )
    return config, transformer(config), name_map


def albert(sizes: dict[str, Any], source: Source) -> tuple[EncoderConfig, Model, NameMap]:
    """ALBERT, from an `AlbertModel` or what was built upon one.

    Raises:
        ValueError: If `config.json` asks for what `encoder()` lacks, as several groups of blocks.
    """
    refuse_other(sizes, "num_hidden_groups", known=1)
    refuse_other(sizes, "inner_group_num", known=1)
    refuse_other(sizes, "position_embedding_type", known="absolute")
    config = EncoderConfig(
        layers=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        vocab=sizes["vocab_size"],
        context=sizes["max_position_embeddings"],
        ffn=sizes["intermediate_size"],
        types=sizes["type_vocab_size"],
        embed_width=sizes["embedding_size"],
        shared=True,
        activation=hub_activation(sizes.get("hidden_act", "gelu_new")),
        epsilon=sizes.get("layer_norm_eps", 1e-12),
    )
    name_map = albert_map(context=config.context, prefix=_prefix(source, "albert."))
    return config, encoder(config), name_map


def bert(sizes: dict[str, Any], source: Source) -> tuple[EncoderConfig, Model, NameMap]:
    """BERT, from a `BertModel`.

    Raises:
        ValueError: If `config.json` asks for what `encoder()` lacks.
    """
    refuse_other(sizes, "position_embedding_type", known="absolute")
    config = EncoderConfig(
        layers=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        vocab=sizes["vocab_size"],
        context=sizes["max_position_embeddings"],
        ffn=sizes["intermediate_size"],
        types=sizes["type_vocab_size"],
        activation=hub_activation(sizes.get("hidden_act", "gelu")),
        epsilon=sizes.get("layer_norm_eps", 1e-12),
    )
    name_map = bert_map(config.layers, context=config.context)
    if all(name.startswith("bert.") for name in source.arrays):
        name_map = prefixed(name_map, "bert.")
    return config, encoder(config), name_map


def t5(sizes: dict[str, Any], source: Source) -> tuple[T5Config, Model, NameMap]:
    """T5, from a `T5ForConditionalGeneration`.

    Raises:
        ValueError: If `config.json` asks for a feed-forward part that `t5()` lacks.
    """
    tied = scaled = sizes.get("tie_word_embeddings", True)
    if "scale_decoder_outputs" in sizes:
        # Where this is written, the other is always true, and the file alone tells.
        tied, scaled = _HEAD not in source.arrays, sizes["scale_decoder_outputs"]
    kind = sizes.get("feed_forward_proj", "relu")
    gated, unit = kind.startswith("gated-"), kind.removeprefix("gated-")
    config = T5Config(
        layers=sizes["num_layers"],
        width=sizes["d_model"],
        heads=sizes["num_heads"],
        size=sizes["d_kv"],
        ffn=sizes["d_ff"],
        vocab=sizes["vocab_size"],
        decoder_layers=sizes.get("num_decoder_layers") or 0,
        buckets=sizes.get("relative_attention_num_buckets", 32),
        longest=sizes.get("relative_attention_max_distance", 128),
        gated=gated,
        # This gated unit has always meant the approximation.
        activation=hub_activation("gelu_new" if kind == "gated-gelu" else unit),
        tied=tied,
        scaled=scaled,
        epsilon=sizes.get("layer_norm_epsilon", 1e-6),
    )
    name_map = t5_map(
        config.layers, decoder_layers=config.decoder_layers, gated=gated, tied=config.tied
    )
    return config, t5_model(config), name_map


def _prefix(source: Source, prefix: str) -> str:
    """The prefix, if names in the file have it."""
    return prefix if any(name.startswith(prefix) for name in source.arrays) else ""
