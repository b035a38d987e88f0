"""Byte-level BPE: the `vocab.json` and `merges.txt` of GPT-2, and whatever holds the same."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wlab.checkpoint.formats.json_text import json_object
from wlab.pretrained.text.splits import splits, whole_words
from wlab.pretrained.text.tokenizer import Tokenizer, library, wrapped


def from_merges(vocab: str | Path, merges: str | Path, *, eos: str = "<|endoftext|>") -> Tokenizer:
    """The tokenizer in a `vocab.json` and a `merges.txt`; no text gets a special token.

    Args:
        vocab: The file of tokens and their numbers.
        merges: The file of pairs, a line each, in the order in which they join.
        eos: The token that ends a text.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: If the extra `text` is missing.
        ValueError: If a file is damaged, or the vocabulary lacks `eos` or what pairs make.

    Reference:
        Radford et al. 2019, "Language models are unsupervised multitask learners", §2.2.
    """
    numbers = json_object(Path(vocab))
    lines = Path(merges).read_text(encoding="utf-8").rstrip("\n").split("\n")
    pairs = lines[1:] if lines[0].startswith("#version") else lines
    refuse_unfit(numbers, pairs, files=f"{vocab} and {merges}")
    if eos not in numbers:
        raise ValueError(f"{vocab} has no token {eos!r}: name the one that ends a text by `eos=`.")
    return wrapped(byte_level(numbers, pairs, special=[eos]), eos=numbers[eos])


def byte_level(
    vocab: Mapping[str, int],
    merges: Iterable[str],
    *,
    special: Sequence[str] = (),
    split: str = "gpt-2",
) -> Any:
    """A tokenizer of the `tokenizers` package.

    Args:
        vocab: Tokens, their bytes spelled as GPT-2 does, and their numbers.
        merges: Pairs with a space between them, those first that join first.
        special: Tokens that stand for themselves in a text.
        split: Where texts are cut first, as llama.cpp names it.

    Raises:
        ImportError: If the extra `text` is missing.
        ValueError: If `split` is not known.
    """
    tokenizers = library()
    pairs = [tuple(pair.split(" ", 1)) for pair in merges]
    model = tokenizers.models.BPE(dict(vocab), pairs, ignore_merges=whole_words(split))
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits(split))
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    return inner


def refuse_unfit(numbers: Mapping[str, Any], pairs: Iterable[str], *, files: str) -> None:
    """Raises ValueError where the package would end the process."""
    for text, number in numbers.items():
        if type(number) is not int or number < 0:
            raise ValueError(f"{files}: the number of token {text!r} is {number!r}.")
    for pair in pairs:
        parts = pair.split(" ")
        if len(parts) != 2 or not all(text in numbers for text in (*parts, "".join(parts))):
            raise ValueError(f"{files}: {pair!r} does not join two tokens to a third.")
