"""Vision transformers as the hub names them, into `wlab.models.vit`."""

from collections.abc import Iterator
from dataclasses import replace

from wlab.pretrained.maps.layers import linear, norm
from wlab.pretrained.name_map import Move, NameMap, for_layers, move, prefixed
from wlab.pretrained.ops import Reshape, Transpose

_POOLER = r"pooler\.dense\.(weight|bias)"


def vit(
    layers: int,
    *,
    width: int,
    places: int,
    head: bool,
    pooler: bool = False,
    qkv_biases: bool = True,
    prefix: str = "",
) -> NameMap:
    """`ViTModel` and `ViTForImageClassification`: kernels (out, in), patches (out, in, y, x).

    Args:
        layers: Number of blocks.
        width: Size of the residual stream.
        places: The class token and the patches of an image.
        head: Whether there are classes.
        pooler: Whether the tree has the pooler; if not, a file's is left there.
        qkv_biases: Whether queries, keys and values have biases.
        prefix: Before all names but the head's: `vit.` where there is a head.
    """
    body = NameMap(
        (
            *_embeddings(width, places),
            *for_layers(layers, _block(qkv_biases)),
            *norm("layernorm", "norm"),
            *(linear("pooler.dense", "pool") if pooler else ()),
        ),
        needless=() if pooler else (_POOLER,),
        verified="tests/pretrained/test_vit_map.py: outputs of an independent forward pass",
    )
    body = prefixed(body, prefix)
    return replace(body, moves=(*body.moves, *linear("classifier", "head"))) if head else body


def _embeddings(width: int, places: int) -> Iterator[Move]:
    for theirs, ours, rows in (
        ("cls_token", "cls", 1),
        ("position_embeddings", "position", places),
    ):
        flat = Reshape((1, rows, width), (rows, width))
        yield move(f"embeddings.{theirs}", f"embed/{ours}/embedding", flat)
    theirs, ours = "embeddings.patch_embeddings.projection", "embed/patch"
    yield move(f"{theirs}.weight", f"{ours}/kernel", Transpose((2, 3, 1, 0)))
    yield move(f"{theirs}.bias", f"{ours}/bias")


def _block(qkv_biases: bool) -> Iterator[Move]:
    theirs, ours = "encoder.layer.{i}", "block_{i}"
    yield from norm(f"{theirs}.layernorm_before", f"{ours}/norm_1")
    for long, short in (("query", "q"), ("key", "k"), ("value", "v")):
        name = f"{theirs}.attention.attention.{long}"
        yield from linear(name, f"{ours}/attn/{short}", bias=qkv_biases)
    yield from linear(f"{theirs}.attention.output.dense", f"{ours}/attn/o")
    yield from norm(f"{theirs}.layernorm_after", f"{ours}/norm_2")
    yield from linear(f"{theirs}.intermediate.dense", f"{ours}/ffn/up")
    yield from linear(f"{theirs}.output.dense", f"{ours}/ffn/down")
