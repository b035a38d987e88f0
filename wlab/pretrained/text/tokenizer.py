"""What a network needs of a tokenizer: text to numbers and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from wlab.extras import required


@dataclass(frozen=True)
class Tokenizer:
    """Text to tokens and back.

    Attributes:
        encode: The tokens of a text. Names of special tokens in it stand for these.
        decode: The text of tokens; special ones are left out.
        size: Number of tokens in the vocabulary.
        bos: The token that texts begin with, if they do.
        eos: The token that ends a text.
        inner: What it was made of, of the `tokenizers` package; None for another's.
        chat_template: How conversations become texts, in Jinja: see `apply_chat_template`.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    size: int
    bos: int | None = None
    eos: int | None = None
    inner: Any = None
    chat_template: str | None = None


def library(name: str = "tokenizers") -> ModuleType:
    """A package of the extra `text`.

    Raises:
        ImportError: If it is not installed, naming the extra.
    """
    return required(name, extra="text")


def wrapped(
    inner: Any,
    *,
    bos: int | None = None,
    eos: int | None = None,
    begin: Sequence[int] = (),
) -> Tokenizer:
    """A tokenizer of the `tokenizers` package; `begin` goes before every text."""

    def encode(text: str) -> list[int]:
        return [*begin, *inner.encode(text, add_special_tokens=not begin).ids]

    def decode(tokens: Sequence[int]) -> str:
        return inner.decode([int(token) for token in tokens], skip_special_tokens=True)

    return Tokenizer(encode, decode, inner.get_vocab_size(), bos, eos, inner)
