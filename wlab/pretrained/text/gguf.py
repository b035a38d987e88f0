"""The vocabulary inside a GGUF file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wlab.pretrained.text.byte_level import byte_level, refuse_unfit
from wlab.pretrained.text.scored import scored
from wlab.pretrained.text.splits import whole_words
from wlab.pretrained.text.tokenizer import Tokenizer, wrapped

KEY, TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"
# llama.cpp's types of tokens: special ones are CONTROL, and USER's stand for themselves as well.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer that a GGUF file's metadata describes: byte-level BPE or SentencePiece.

    Raises:
        ImportError: If the extra `text` is missing.
        ValueError: If the file has no vocabulary, or one of a kind that is not known.
    """
    kind = metadata.get(KEY + "model")
    special = {name: metadata.get(f"{KEY}{name}_token_id") for name in ("bos", "eos")}
    if kind == "gpt2":
        found = _byte_level(metadata, special)
    elif kind == "llama":
        texts, scores = (_listed(metadata, name) for name in ("tokens", "scores"))
        if len(texts) != len(scores):
            raise ValueError(f"from_gguf: {len(texts):,} tokens, but {len(scores):,} scores.")
        found = scored(
            texts,
            scores,
            **special,
            begins=metadata.get(KEY + "add_bos_token", True),
            space_first=metadata.get(KEY + "add_space_prefix", True),
        )
        found.inner.add_special_tokens(_of_type(metadata, CONTROL))
    else:
        raise ValueError(f"from_gguf: the vocabulary is of the unknown kind {kind!r}.")
    found.inner.add_tokens(_of_type(metadata, USER))
    return replace(found, chat_template=metadata.get(TEMPLATE))


def _byte_level(metadata: Mapping[str, Any], special: dict[str, Any]) -> Tokenizer:
    split = metadata.get(KEY + "pre", "gpt-2")
    vocab = {text: i for i, text in enumerate(_listed(metadata, "tokens"))}
    merges = _listed(metadata, "merges")
    refuse_unfit(vocab, merges, files="from_gguf")
    inner = byte_level(
        vocab,
        merges,
        special=_of_type(metadata, CONTROL),
        split=split,
    )
    begins = metadata.get(KEY + "add_bos_token", whole_words(split))
    return wrapped(inner, **special, begin=(special["bos"],) if begins else ())


def _listed(metadata: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = metadata.get(KEY + name)
    if not isinstance(found, list):
        raise ValueError(f"from_gguf: the metadata lacks the list {KEY + name!r}.")
    return found


def _of_type(metadata: Mapping[str, Any], wanted: int) -> list[str]:
    texts, types = metadata[KEY + "tokens"], metadata.get(KEY + "token_type", [])
    return [text for text, kind in zip(texts, types, strict=False) if kind == wanted]
