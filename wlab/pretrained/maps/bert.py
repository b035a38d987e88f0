"""BERT encoders as the hub names them, into `wlab.models.encoder`."""

from collections.abc import Iterator

import numpy as np

from wlab.pretrained.name_map import Move, NameMap, for_layers, move
from wlab.pretrained.ops import Transpose


def bert(layers: int, *, context: int) -> NameMap:
    """`BertModel`: linear kernels stand as (out, in) in the file.

    Args:
        layers: Number of blocks.
        context: Rows of the position table, whose numbers older files carry along.
    """
    return NameMap(
        (
            *_embeddings(),
            *for_layers(layers, _block()),
            *_linear("pooler.dense", "pool"),
        ),
        constants={"embeddings.position_ids": np.arange(context)[None]},
        verified="tests/pretrained/test_minilm.py: outputs of an independent forward pass",
    )


def _embeddings() -> Iterator[Move]:
    for theirs, ours in (("word", "embed"), ("position", "position"), ("token_type", "segment")):
        yield move(f"embeddings.{theirs}_embeddings.weight", f"{ours}/embedding")
    yield from _norm("embeddings.LayerNorm", "norm")


def _block() -> Iterator[Move]:
    theirs, ours = "encoder.layer.{i}", "block_{i}"
    for long, short in (("query", "q"), ("key", "k"), ("value", "v")):
        yield from _linear(f"{theirs}.attention.self.{long}", f"{ours}/attn/{short}")
    yield from _linear(f"{theirs}.attention.output.dense", f"{ours}/attn/o")
    yield from _norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm_1")
    yield from _linear(f"{theirs}.intermediate.dense", f"{ours}/ffn/up")
    yield from _linear(f"{theirs}.output.dense", f"{ours}/ffn/down")
    yield from _norm(f"{theirs}.output.LayerNorm", f"{ours}/norm_2")


def _linear(theirs: str, ours: str) -> Iterator[Move]:
    yield move(f"{theirs}.weight", f"{ours}/kernel", Transpose())
    yield move(f"{theirs}.bias", f"{ours}/bias")


def _norm(theirs: str, ours: str) -> Iterator[Move]:
    yield move(f"{theirs}.weight", f"{ours}/scale")
    yield move(f"{theirs}.bias", f"{ours}/bias")
