"""The vocabulary inside a GGUF file."""

from collections.abc import Mapping
from typing import Any

from wlab.pretrained.text.byte_level import byte_level
from wlab.pretrained.text.scored import scored
from wlab.pretrained.text.tokenizer import Tokenizer, wrapped

_CONTROL = 3  # llama.cpp's token type of special tokens
_DIGITS_APART = ("smollm",)  # pre-tokenizers that split numbers into digits


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer that a GGUF file's metadata describes: byte-level BPE or SentencePiece.

    Raises:
        ImportError: If the extra `text` is missing.
        ValueError: If the file has no vocabulary, or one of a kind that is not known.
    """
    kind = metadata.get("tokenizer.ggml.model")
    special = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    if kind == "gpt2":
        return _byte_level(metadata, special)
    if kind == "llama":
        texts, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
        return scored(texts, scores, **special)
    raise ValueError(f"from_gguf: the vocabulary is of the unknown kind {kind!r}.")


def _byte_level(metadata: Mapping[str, Any], special: dict[str, Any]) -> Tokenizer:
    texts = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type", [])
    inner = byte_level(
        {text: i for i, text in enumerate(texts)},
        metadata["tokenizer.ggml.merges"],
        special=[text for text, kind in zip(texts, types, strict=False) if kind == _CONTROL],
        digits_apart=metadata.get("tokenizer.ggml.pre") in _DIGITS_APART,
    )
    begin = (special["bos"],) if metadata.get("tokenizer.ggml.add_bos_token") else ()
    return wrapped(inner, **special, begin=begin)
