"""The vocabulary inside a GGUF file."""

from collections.abc import Mapping
from typing import Any

from wlab.pretrained.text.scored import scored
from wlab.pretrained.text.tokenizer import Tokenizer, library, wrapped

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
    tokenizers = library()
    texts = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in metadata["tokenizer.ggml.merges"]]
    vocab = {text: i for i, text in enumerate(texts)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    steps = [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if metadata.get("tokenizer.ggml.pre") in _DIGITS_APART:
        steps.insert(0, tokenizers.pre_tokenizers.Digits(individual_digits=True))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps)
    inner.decoder = tokenizers.decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type", [])
    control = [text for text, kind in zip(texts, types, strict=False) if kind == _CONTROL]
    inner.add_special_tokens(control)
    begin = (special["bos"],) if metadata.get("tokenizer.ggml.add_bos_token") else ()
    return wrapped(inner, **special, begin=begin)
