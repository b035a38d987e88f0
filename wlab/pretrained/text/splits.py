"""Where byte-level BPE cuts a text before bytes join, by the names that llama.cpp has for it."""

from typing import Any

from wlab.pretrained.text.tokenizer import library

_WORDS = ("gpt-2", "phi-2", "mpt", "olmo", "jais")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN = ("qwen2", "deepseek-r1-qwen")
WRITTEN = (_WORDS[0], _DIGITS[0], _LLAMA_3[0], _QWEN[0])  # a name for each way

_PARTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def splits(name: str) -> list[Any]:
    """The steps of the `tokenizers` package.

    GPT-2's words; these and every digit; LLaMA 3's parts; those of Qwen, and every digit.

    Raises:
        ImportError: If the extra `text` is missing.
        ValueError: If the name is not known.
    """
    steps = library().pre_tokenizers
    if name in _WORDS:
        return [steps.ByteLevel(add_prefix_space=False)]
    if name in _DIGITS:
        return [steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False)]
    if name in (*_LLAMA_3, *_QWEN):
        digits = "{1,3}" if name in _LLAMA_3 else ""
        parts = steps.Split(library().Regex(_PARTS % digits), "isolated")
        return [parts, steps.ByteLevel(add_prefix_space=False, use_regex=False)]
    known = ", ".join((*_WORDS, *_DIGITS, *_LLAMA_3, *_QWEN))
    raise ValueError(f"the vocabulary cuts texts as {name!r}; wlab knows {known}.")


def whole_words(name: str) -> bool:
    """Whether what is whole in the vocabulary is a token at once, whatever would join."""
    return name in _LLAMA_3
