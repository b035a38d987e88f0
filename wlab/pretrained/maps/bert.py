"""BERT encoders as the hub names them, into `wlab.models.encoder`."""

from collections.abc import Iterator

import numpy as np

from wlab.pretrained.maps.layers import linear, norm
from wlab.pretrained.name_map import Move, NameMap, for_layers, move


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
            *linear("pooler.dense", "pool"),
        ),
        constants={"embeddings.position_ids": np.arange(context)[None]},
        verified="tests/pretrained/test_minilm.py: outputs of an independent forward pass",
    )


def _embeddings() -> Iterator[Move]:
    for theirs, ours in (("word", "embed"), ("position", "position"), ("token_type", "segment")):
        yield move(f"embeddings.{theirs}_embeddings.weight", f"{ours}/embedding")
    yield from norm("embeddings.LayerNorm", "norm")


def _block() -> Iterator[Move]:
    theirs, ours = "encoder.layer.{i}", "block_{i}"
    for long, short in (("query", "q"), ("key", "k"), ("value", "v")):
        yield from linear(f"{theirs}.attention.self.{long}", f"{ours}/attn/{short}")
    yield from linear(f"{theirs}.attention.output.dense", f"{ours}/attn/o")
    yield from norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm_1")
    yield from linear(f"{theirs}.intermediate.dense", f"{ours}/ffn/up")
    yield from linear(f"{theirs}.output.dense", f"{ours}/ffn/down")
    yield from norm(f"{theirs}.output.LayerNorm", f"{ours}/norm_2")
