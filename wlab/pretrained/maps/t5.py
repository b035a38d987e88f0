"""T5 encoder-decoders as the hub names them, into `wlab.models.t5`."""

from collections.abc import Iterator

from wlab.pretrained.maps.layers import linear
from wlab.pretrained.name_map import Move, NameMap, for_layers, move

_EMBEDDING = "shared.weight"


def t5(layers: int, *, decoder_layers: int = 0, gated: bool = False, tied: bool = True) -> NameMap:
    """`T5ForConditionalGeneration`: linear kernels stand as (out, in) in the file.

    Args:
        layers: Number of blocks of the encoder.
        decoder_layers: Likewise of the decoder; 0 stands for `layers`.
        gated: Whether the feed-forward part is gated, as in version 1.1.
        tied: Whether the head is the embedding.
    """
    repeats = [f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
    return NameMap(
        (
            move(_EMBEDDING, "embed/embedding"),
            *_stack("encoder", layers, gated=gated),
            *_stack("decoder", decoder_layers or layers, gated=gated),
            *([] if tied else linear("lm_head", "head", bias=False)),
        ),
        ties=dict.fromkeys([*repeats, *(["lm_head.weight"] if tied else [])], _EMBEDDING),
        # The first published files have a table that the network never read.
        needless=(
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        ),
        verified="tests/pretrained/test_t5_map.py: outputs of an independent forward pass",
    )


def _stack(side: str, layers: int, *, gated: bool) -> Iterator[Move]:
    table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield move(table, f"{side}/position/embedding")
    yield from for_layers(layers, _block(side, gated=gated))
    yield move(f"{side}.final_layer_norm.weight", f"{side}/norm/scale")


def _block(side: str, *, gated: bool) -> Iterator[Move]:
    units = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
    parts: list[tuple[str, str, str, dict[str, str]]] = [
        ("SelfAttention", "attn", "norm_1", {name: name for name in "qkvo"}),
        ("EncDecAttention", "cross", "norm_cross", {name: name for name in "qkvo"}),
        ("DenseReluDense", "ffn", "norm_2", units | {"wo": "down"}),
    ]
    if side == "encoder":
        del parts[1]
    for i, (theirs, ours, norm, layers) in enumerate(parts):
        at = f"{side}.block.{{i}}.layer.{i}"
        yield move(f"{at}.layer_norm.weight", f"{side}/block_{{i}}/{norm}/scale")
        for long, short in layers.items():
            yield from linear(
                f"{at}.{theirs}.{long}", f"{side}/block_{{i}}/{ours}/{short}", bias=False
            )
