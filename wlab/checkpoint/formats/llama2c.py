"""The model and tokenizer files of llama2.c: a few sizes, then float32 numbers end to end.

Reference: Karpathy, llama2.c (2023), `run.c` (`memory_map_weights`, `build_tokenizer`).
"""

from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wlab.checkpoint.formats.front import Front
from wlab.checkpoint.source import Source, span

_SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
_HEADER = 4 * len(_SIZES)
_VERSIONED = 0x616B3432  # `ak42`, the first word of versions 1 and 2


class Tokens(NamedTuple):
    """A llama2.c tokenizer: what each token stands for, and its score for the merges of BPE."""

    scores: Float32[np.ndarray, "vocab"]
    texts: list[bytes]
    longest: int  # bytes of a text at most, as the file says


def open_llama2c(path: Path, *, end: int | None = None) -> Source:
    """A llama2.c file of version 0, opened.

    Names are those of `run.c` and layers are stacked on the first axis, as in the file. The sizes
    are in the metadata, `shared_classifier` and the bytes that follow the model (`trailing`) too.

    Args:
        path: The file.
        end: The byte at which the model ends, if other data follow it.

    Raises:
        ValueError: If the sizes in the header do not describe a model of that many bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        found = Front(path, file, size).numbers("7i", "the header")
    if found[0] == _VERSIONED:
        raise ValueError(f"{path} is llama2.c version {found[1]}; export it again as version 0.")
    sizes: dict[str, int] = dict(zip(_SIZES, found, strict=True))
    shared = sizes["vocab_size"] > 0
    sizes["vocab_size"] = abs(sizes["vocab_size"])
    _check(path, sizes)
    arrays, at = {}, _HEADER
    for name, shape in _shapes(shared=shared, **sizes).items():
        arrays[name] = span(path, "float32", shape, at)
        at += 4 * prod(shape)
    if at > size or at != (size if end is None else end):
        raise ValueError(
            f"{path}: the header describes {at:,} bytes, the file has {size:,}"
            + ("." if end is None else f", and the model is said to end at {end:,}.")
            + (f" If other data follow, open it with end={at}." if at < size else "")
        )
    return Source(
        path, "llama2c", arrays, sizes | {"shared_classifier": shared, "trailing": size - at}
    )


def _check(path: Path, sizes: dict[str, int]) -> None:
    sound = all(n > 0 for n in sizes.values())
    if not sound or sizes["dim"] % (2 * sizes["n_heads"]) or sizes["n_heads"] % sizes["n_kv_heads"]:
        raise ValueError(
            f"{path} is not a llama2.c model of version 0: its header reads {sizes}, which need "
            "to be positive, dim to be heads of even size, and n_heads to share n_kv_heads evenly."
        )


def _shapes(
    *,
    dim: int,
    hidden_dim: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    vocab_size: int,
    seq_len: int,
    shared: bool,
) -> dict[str, tuple[int, ...]]:
    kv_dim, half = dim // n_heads * n_kv_heads, dim // n_heads // 2
    shapes = {
        "token_embedding_table": (vocab_size, dim),
        "rms_att_weight": (n_layers, dim),
        "wq": (n_layers, dim, dim),
        "wk": (n_layers, kv_dim, dim),
        "wv": (n_layers, kv_dim, dim),
        "wo": (n_layers, dim, dim),
        "rms_ffn_weight": (n_layers, dim),
        "w1": (n_layers, hidden_dim, dim),
        "w2": (n_layers, dim, hidden_dim),
        "w3": (n_layers, hidden_dim, dim),
        "rms_final_weight": (dim,),
        "freq_cis_real": (seq_len, half),
        "freq_cis_imag": (seq_len, half),
    }
    return shapes if shared else shapes | {"wcls": (vocab_size, dim)}


def read_llama2c_tokenizer(path: Path, offset: int = 0, *, vocab_size: int | None = None) -> Tokens:
    """The tokenizer that stands at `offset` bytes, up to the end of the file.

    Args:
        path: A `tokenizer.bin`, or a file that has one at its end.
        offset: Where it begins.
        vocab_size: How many tokens there must be; the file itself does not say.

    Raises:
        ValueError: If it is truncated, a length is negative or above the longest that it
            announces, a score is NaN, or there are not `vocab_size` tokens.
    """
    size = path.stat().st_size
    if not 0 <= offset <= size:
        raise ValueError(f"{path} has {size:,} bytes, none at {offset:,}.")
    scores: list[float] = []
    texts: list[bytes] = []
    with path.open("rb") as file:
        file.seek(offset)
        front = Front(path, file, size - offset)
        longest = front.number("i", "the tokenizer's header")
        while front.left:
            what = f"token {len(texts):,}"
            score, length = front.numbers("fi", what)
            if not 0 <= length <= longest or score != score:
                raise ValueError(
                    f"{path}: {what} has {length:,} bytes and the score {score}, where at most "
                    f"{longest:,} bytes are announced; is there a tokenizer at byte {offset:,}?"
                )
            scores.append(score)
            texts.append(front.take(length, what))
    if vocab_size not in (None, len(texts)):
        raise ValueError(f"{path}: the tokenizer has {len(texts):,} tokens, not {vocab_size:,}.")
    return Tokens(np.array(scores, np.float32), texts, longest)
