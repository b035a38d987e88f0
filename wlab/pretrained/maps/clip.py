"""CLIP as the hub names it, into `wlab.models.clip`."""

from collections.abc import Iterator

import numpy as np

from wlab.pretrained.maps.layers import linear, norm
from wlab.pretrained.name_map import Move, NameMap, for_layers, move
from wlab.pretrained.ops import Reshape, Transpose


def clip(
    *, text_layers: int, vision_layers: int, vision_width: int, context: int, places: int
) -> NameMap:
    """`CLIPModel`: kernels (out, in), patches (out, in, y, x).

    Args:
        text_layers: Blocks of the tower for texts.
        vision_layers: Blocks of the tower for images.
        vision_width: Size of its residual stream.
        context: Rows of the text's position table; older files carry their numbers along.
        places: Likewise of the image's: the class token and the patches.
    """
    return NameMap(
        (
            *_text(text_layers),
            *_vision(vision_layers, vision_width),
            move("logit_scale", "logit_scale"),
        ),
        constants={
            "text_model.embeddings.position_ids": np.arange(context)[None],
            "vision_model.embeddings.position_ids": np.arange(places)[None],
        },
        verified="tests/pretrained/test_clip_map.py: outputs of an independent forward pass",
    )


def _text(layers: int) -> Iterator[Move]:
    for theirs, ours in (("token", "embed"), ("position", "position")):
        yield move(f"text_model.embeddings.{theirs}_embedding.weight", f"text/{ours}/embedding")
    yield from for_layers(layers, _block("text_model", "text"))
    yield from norm("text_model.final_layer_norm", "text/norm")
    yield move("text_projection.weight", "text/project/kernel", Transpose())


def _vision(layers: int, width: int) -> Iterator[Move]:
    theirs, ours = "vision_model.embeddings", "vision/embed"
    token = Reshape((width,), (1, width))
    yield move(f"{theirs}.class_embedding", f"{ours}/cls/embedding", token)
    patches = Transpose((2, 3, 1, 0))
    yield move(f"{theirs}.patch_embedding.weight", f"{ours}/patch/kernel", patches)
    yield move(f"{theirs}.position_embedding.weight", f"{ours}/position/embedding")
    yield from norm("vision_model.pre_layrnorm", "vision/norm_in")  # spelled so in every file
    yield from for_layers(layers, _block("vision_model", "vision"))
    yield from norm("vision_model.post_layernorm", "vision/norm")
    yield move("visual_projection.weight", "vision/project/kernel", Transpose())


def _block(theirs: str, ours: str) -> Iterator[Move]:
    theirs, ours = f"{theirs}.encoder.layers.{{i}}", f"{ours}/block_{{i}}"
    yield from norm(f"{theirs}.layer_norm1", f"{ours}/norm_1")
    for long, short in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o")):
        yield from linear(f"{theirs}.self_attn.{long}", f"{ours}/attn/{short}")
    yield from norm(f"{theirs}.layer_norm2", f"{ours}/norm_2")
    yield from linear(f"{theirs}.mlp.fc1", f"{ours}/ffn/up")
    yield from linear(f"{theirs}.mlp.fc2", f"{ours}/ffn/down")
