"""A vocabulary as the metadata of a GGUF file."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wlab.pretrained.text.gguf import (
    BYTE,
    CONTROL,
    KEY,
    NORMAL,
    TEMPLATE,
    UNKNOWN,
    UNUSED,
    USER,
    from_gguf,
)
from wlab.pretrained.text.splits import WRITTEN
from wlab.pretrained.text.tokenizer import Tokenizer

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_UNKNOWN = "<unk>"
# Texts that the ways to cut cut apart: numbers, contractions, spaces, signs, scripts.
_PROBES = (
    "Once upon a time, in 1984 and 20011 A.D., I've said: they'LL'VE 3.14159 × 10⁻²³!",
    "  two\n\n\nthree \n \t four    five\r\n\r\n\t\tsix ",
    "def f(x): # it's\n    return x[::-1] == 'abc'  or {\"k\": 0x1F}",
    "Größe naïve Привет мир 你好，世界 こんにちは नमस्ते العربية ١٢٣ 🦙🚀 é ½",
    "",
)


def to_gguf(words: Tokenizer, *, size: int) -> dict[str, Any]:
    """The metadata by which llama.cpp makes the same tokens of a text.

    It is read back, and some texts of many scripts are compared.

    Args:
        words: Byte-level BPE, or SentencePiece's.
        size: Rows in the network's table of tokens. What no text is, is called `[PAD7]`.

    Raises:
        ValueError: If there are more tokens than rows, or the vocabulary is of another kind.
    """
    if words.inner is None:
        raise ValueError("to_gguf: this tokenizer is not of the `tokenizers` package.")
    described = json.loads(words.inner.to_str())
    if described["model"]["type"] != "BPE":
        raise ValueError(f"to_gguf: a vocabulary of {described['model']['type']}, not of BPE.")
    shared = _tokens(described, size=size) | _ends(words)
    if words.chat_template is not None:
        shared[TEMPLATE] = words.chat_template
    for kind in _kinds(described["model"], shared[KEY + "tokens"]):
        found = shared | kind
        read = from_gguf(found)
        if all(read.encode(probe) == words.encode(probe) for probe in _PROBES):
            return found
    raise ValueError("to_gguf: llama.cpp has no name for how the vocabulary cuts texts.")


def _tokens(described: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    """The texts of all tokens in the order of their numbers, and their types."""
    model, added = described["model"], described["added_tokens"]
    numbers = model["vocab"] | {token["content"]: token["id"] for token in added}
    if max(numbers.values()) >= size:
        raise ValueError(
            f"to_gguf: token {max(numbers.values()):,} of the vocabulary has no row in the "
            f"network's table of {size:,}."
        )
    texts, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    kinds = {token["content"]: CONTROL if token["special"] else USER for token in added}
    if model["byte_fallback"]:
        kinds |= {text: BYTE for text in numbers if _BYTE.fullmatch(text)}
        kinds[model["unk_token"] or _UNKNOWN] = UNKNOWN
    for text, number in numbers.items():
        texts[number], types[number] = text, kinds.get(text, NORMAL)
    return {KEY + "tokens": texts, KEY + "token_type": types}


def _ends(words: Tokenizer) -> dict[str, Any]:
    """Special tokens that texts begin and end with."""
    around = words.encode("")
    bos = around[0] if words.bos is None and len(around) == 1 else words.bos
    if around not in ([], [bos]):
        raise ValueError(
            f"to_gguf: the tokenizer puts {around} around a text; only a first token has a place."
        )
    numbers = {"bos_token_id": bos, "eos_token_id": words.eos}
    found = {KEY + name: number for name, number in numbers.items() if number is not None}
    return found | {KEY + "add_bos_token": bool(around)}


def _kinds(model: Mapping[str, Any], texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the vocabulary may be."""
    pairs = [tuple(p.split(" ", 1)) if isinstance(p, str) else tuple(p) for p in model["merges"]]
    if model["byte_fallback"]:
        scores = _scores(pairs, texts, model["vocab"])
        for first in (True, False):
            kind = {KEY + "model": "llama", KEY + "scores": scores}
            yield kind | {KEY + "add_space_prefix": first}
        return
    joined = [" ".join(pair) for pair in pairs]
    for name in WRITTEN:
        yield {KEY + "model": "gpt2", KEY + "pre": name, KEY + "merges": joined}


def _scores(
    pairs: Sequence[tuple[str, ...]], texts: Sequence[str], vocab: Mapping[str, int]
) -> list[float]:
    """Scores that join in the order of the pairs: all that join to a piece share its score."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    joining = set(pairs)
    for text in ranks:
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if pair[0] in vocab and pair[1] in vocab and pair not in joining:
                raise ValueError(
                    f"to_gguf: {pair[0]!r} and {pair[1]!r} do not join, although {text!r} is a "
                    "piece: no scores of pieces say that."
                )
    return [float(-ranks.get(text, 0)) for text in texts]
