"""GPT-2 decoders as the hub names them, into `wlab.models.transformer`."""

import re
from collections.abc import Iterator

from wlab.pretrained.maps.layers import norm
from wlab.pretrained.name_map import Move, NameMap, for_layers, move
from wlab.pretrained.ops import Split, Transpose


def gpt2(layers: int, *, width: int, tied: bool = True, prefix: str = "transformer.") -> NameMap:
    """`GPT2LMHeadModel`: kernels stand as (in, out) in the file, those of q, k and v side by side.

    Args:
        layers: Number of blocks.
        width: Size of the residual stream.
        tied: Whether the head is the embedding.
        prefix: What stands before every name but the head's: `transformer.`, or nothing in files
            of a `GPT2Model`.
    """
    embedding = f"{prefix}wte.weight"
    return NameMap(
        (
            move(embedding, "embed/embedding"),
            move(f"{prefix}wpe.weight", "position/embedding"),
            *for_layers(layers, _block(prefix, width)),
            *norm(f"{prefix}ln_f", "norm"),
            *([] if tied else [move("lm_head.weight", "head/kernel", Transpose())]),
        ),
        ties={"lm_head.weight": embedding} if tied else {},
        # Older files carry the causal mask and the number that stands for minus infinity.
        needless=(rf"{re.escape(prefix)}h\.\d+\.attn\.(masked_)?bias",),
        verified="tests/pretrained/test_gpt2.py: outputs of an independent forward pass",
    )


def _block(prefix: str, width: int) -> Iterator[Move]:
    theirs, ours = f"{prefix}h.{{i}}", "block_{i}"
    yield from norm(f"{theirs}.ln_1", f"{ours}/norm_1")
    for side, kind, axis in (("weight", "kernel", 1), ("bias", "bias", 0)):
        parts = [f"{ours}/attn/{part}/{kind}" for part in "qkv"]
        yield move(f"{theirs}.attn.c_attn.{side}", parts, Split((width,) * 3, axis=axis))
    yield from _linear(f"{theirs}.attn.c_proj", f"{ours}/attn/o")
    yield from norm(f"{theirs}.ln_2", f"{ours}/norm_2")
    yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}/ffn/up")
    yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}/ffn/down")


def _linear(theirs: str, ours: str) -> Iterator[Move]:
    yield move(f"{theirs}.weight", f"{ours}/kernel")
    yield move(f"{theirs}.bias", f"{ours}/bias")
