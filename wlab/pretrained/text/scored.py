"""SentencePiece's BPE: of all neighbours, those join first whose union has the best score."""

from collections.abc import Sequence
from pathlib import Path

from wlab.checkpoint import read_llama2c_tokenizer
from wlab.pretrained.text.tokenizer import Tokenizer, library, wrapped

_SPACE = "▁"
_FIRST = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]  # of every llama


def from_llama2c(path: str | Path, *, offset: int = 0) -> Tokenizer:
    """The tokenizer of a llama2.c file, which begins `offset` bytes into it.

    Its first tokens are LLaMA's special ones and the 256 bytes, however the file spells them.

    Raises:
        ImportError: If the extra `text` is missing.
        ValueError: If the file is damaged or has fewer tokens than these.
    """
    tokens = read_llama2c_tokenizer(Path(path), offset)
    if len(tokens.texts) < len(_FIRST):
        raise ValueError(f"{path}: {len(tokens.texts)} tokens, LLaMA's begin with {len(_FIRST)}.")
    texts = [text.decode("utf-8", "replace") for text in tokens.texts[len(_FIRST) :]]
    pieces = [*_FIRST, *(text.replace(" ", _SPACE) for text in texts)]
    return scored(pieces, tokens.scores.tolist(), bos=1, eos=2)


def scored(
    texts: Sequence[str],
    scores: Sequence[float],
    *,
    bos: int | None = None,
    eos: int | None = None,
    begins: bool = True,
    space_first: bool = True,
) -> Tokenizer:
    """A tokenizer from pieces and scores; spaces in pieces are `▁`, single bytes are `<0x0A>`.

    Args:
        texts: The pieces, in the order of their numbers.
        scores: Of each.
        bos: The piece that texts begin with.
        eos: The piece that ends a text.
        begins: Whether `bos` goes before every text.
        space_first: Whether a space does.

    Reference:
        Kudo & Richardson 2018 (arXiv:1808.06226), §3.1; Sennrich et al. 2016 (arXiv:1508.07909).
    """
    tokenizers = library()
    vocab = {text: i for i, text in enumerate(texts)}
    ranked = sorted(range(len(texts)), key=lambda i: -scores[i])
    merges = [
        (text[:cut], text[cut:])
        for text in (texts[i] for i in ranked)
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    model = tokenizers.models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True)
    inner = tokenizers.Tokenizer(model)
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    first = [normalizers.Prepend(_SPACE)] if space_first else []
    inner.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", _SPACE)])
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if space_first else []),
        ]
    )
    inner.add_special_tokens([texts[i] for i in (bos, eos) if i is not None])
    return wrapped(inner, bos=bos, eos=eos, begin=(bos,) if begins and bos is not None else ())
