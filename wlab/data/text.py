"""Text as tokens, and tokens as windows of a context and the tokens that follow it."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from wlab.data.fetch import fetch


def read_text(
    name: str, *, file: str | Path | None = None, cache: str | Path | None = None
) -> dict[str, bytes]:
    """The files of a text dataset (`wlab data list`) by their stem: `train`, `valid`, `test`.

    Args:
        name: `tiny-shakespeare` or `wikitext-2`.
        file: As in `fetch`.
        cache: As in `fetch`.
    """
    folder = fetch(name, file=file, cache=cache)
    return {path.stem: path.read_bytes() for path in sorted(folder.iterdir())}


def byte_tokens(text: str | bytes) -> UInt8[np.ndarray, " length"]:
    """One token a byte, of the UTF-8 of `text`: a vocabulary of 256."""
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


def vocabulary(text: str) -> str:
    """The distinct characters in code-point order; a character's place is its token."""
    return "".join(sorted(set(text)))


def char_tokens(text: str, vocab: str) -> Integer[np.ndarray, " length"]:
    """One token a character.

    Raises:
        ValueError: If a character is not in `vocab`, or `vocab` is not a `vocabulary`.
    """
    points, known = _code_points(text), _code_points(vocab)
    if (np.diff(known.astype(np.int64)) <= 0).any():
        raise ValueError("vocab must hold distinct characters in order: see `vocabulary`.")
    unknown = points[~np.isin(points, known)]
    if unknown.size:
        raise ValueError(
            f"{chr(unknown[0])!r} is not in the vocabulary of {len(vocab)} characters."
        )
    return np.searchsorted(known, points).astype(np.int32)


def char_text(tokens: Integer[np.ndarray, " length"], vocab: str) -> str:
    """The inverse of `char_tokens`."""
    return "".join(vocab[token] for token in tokens)


def windows(
    tokens: Integer[np.ndarray, " length"], context: int, *, stride: int | None = None
) -> Integer[np.ndarray, "windows window"]:
    """Windows of `context + 1` tokens: a context, shifted by one against its targets.

    With the default stride every token but the first is a target at most once; what is left
    at the end, less than a window, is dropped. The result is a view: it takes no memory.

    Args:
        tokens: The text.
        context: Tokens the model sees at once.
        stride: Tokens from one window to the next; `context` if None.

    Raises:
        ValueError: If `context` or `stride` is below 1, or there are too few tokens for one.
    """
    stride = context if stride is None else stride
    if context < 1 or stride < 1:
        raise ValueError(f"context and stride must be at least 1, got {context} and {stride}.")
    if len(tokens) <= context:
        raise ValueError(
            f"{len(tokens)} tokens are too few for one window of {context} + 1. "
            "Shorten the context or bring more text."
        )
    return np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::stride]


def _code_points(text: str) -> Integer[np.ndarray, " length"]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
