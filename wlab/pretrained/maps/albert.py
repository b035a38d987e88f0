"""ALBERT encoders as the hub names them, into `wlab.models.encoder` with one shared block."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from wlab.pretrained.maps.layers import linear, norm
from wlab.pretrained.name_map import Move, NameMap, move, prefixed

_BLOCK = "encoder.albert_layer_groups.0.albert_layers.0"


def albert(*, context: int, prefix: str = "albert.") -> NameMap:
    """`AlbertModel`: linear kernels stand as (out, in), the block of all layers once.

    The heads of pretraining, `predictions` and `sop_classifier`, are left in the file, as the
    encoder has none. A head that was trained for a task is refused, lest it get lost in silence.

    Args:
        context: Rows of the position table, whose numbers older files carry along.
        prefix: What stands before every name but the heads': `albert.`, or nothing in files of an
            `AlbertModel`.
    """
    bare = NameMap(
        (
            *_embeddings(),
            *linear("encoder.embedding_hidden_mapping_in", "project"),
            *_block(),
            *linear("pooler", "pool"),
        ),
        constants={"embeddings.position_ids": np.arange(context)[None]},
        verified="tests/pretrained/test_albert.py: outputs of an independent forward pass",
    )
    return replace(prefixed(bare, prefix), needless=(r"(predictions|sop_classifier)\..*",))


def _embeddings() -> Iterator[Move]:
    for theirs, ours in (("word", "embed"), ("position", "position"), ("token_type", "segment")):
        yield move(f"embeddings.{theirs}_embeddings.weight", f"{ours}/embedding")
    yield from norm("embeddings.LayerNorm", "norm")


def _block() -> Iterator[Move]:
    for theirs, ours in (("query", "q"), ("key", "k"), ("value", "v"), ("dense", "o")):
        yield from linear(f"{_BLOCK}.attention.{theirs}", f"block_0/attn/{ours}")
    yield from norm(f"{_BLOCK}.attention.LayerNorm", "block_0/norm_1")
    yield from linear(f"{_BLOCK}.ffn", "block_0/ffn/up")
    yield from linear(f"{_BLOCK}.ffn_output", "block_0/ffn/down")
    yield from norm(f"{_BLOCK}.full_layer_layer_norm", "block_0/norm_2")
