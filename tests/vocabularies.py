"""Small vocabularies of byte-level BPE as the hub has them, made by the `tokenizers` package."""

from typing import Any

import tokenizers
from tokenizers import pre_tokenizers as cuts

_PARTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _by_parts(digits: str) -> list[Any]:
    parts = cuts.Split(tokenizers.Regex(_PARTS % digits), "isolated")
    return [parts, cuts.ByteLevel(add_prefix_space=False, use_regex=False)]


# In tokenizer.json files: GPT-2's, SmolLM's, LLaMA 3's, Qwen's.
WAYS: dict[str, list[Any]] = {
    "gpt-2": [cuts.ByteLevel(add_prefix_space=False)],
    "smollm": [cuts.Digits(individual_digits=True), cuts.ByteLevel(add_prefix_space=False)],
    "llama-bpe": _by_parts("{1,3}"),
    "qwen2": _by_parts(""),
}
TEXTS = (
    "the 1984 cats said: I've seen 20011 dogs, they'LL go!!\n\n",
    "  two\n\n\nthree \n \t four    3.14159\r\n\r\n\t\tsix ",
    "def f(x):\n    return x[::-1] == 'abc'  # it's",
    "Größe naïve Привет 你好，世界 🦙🚀 ½ ١٢٣",
)


def trained(way: str, *, size: int) -> tokenizers.Tokenizer:
    """Merges learned from `TEXTS` cut as GPT-2 does, numbers whole; texts are cut as `way` says."""
    model: Any = tokenizers.models.BPE(ignore_merges=way == "llama-bpe")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = cuts.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=cuts.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS * 9, trainer)
    inner.pre_tokenizer = cuts.Sequence(WAYS[way])
    return inner
