"""LLaMA decoders and their kin in three spellings, into `wlab.models.llama`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from wlab.pretrained.name_map import Move, NameMap, for_layers, move
from wlab.pretrained.ops import Halves, Op, Transpose, Unstack

_HUB = {
    "attn/q": "self_attn.q_proj",
    "attn/k": "self_attn.k_proj",
    "attn/v": "self_attn.v_proj",
    "attn/o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_GGUF = {
    "attn/q": "attn_q",
    "attn/k": "attn_k",
    "attn/v": "attn_v",
    "attn/o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_LLAMA2C = {
    "attn/q": "wq",
    "attn/k": "wk",
    "attn/v": "wv",
    "attn/o": "wo",
    "gate": "w1",
    "down": "w2",
    "up": "w3",
}
_SEEN = (
    "tests/pretrained/test_llama_networks.py, test_llama_kin.py: outputs of an independent forward "
    "pass"
)


def llama_hub(layers: int, *, tied: bool, qkv_bias: bool = False, qk_norm: bool = False) -> NameMap:
    """`LlamaForCausalLM` of the hub: kernels (out, in), rotary pairs as halves.

    Mistral's names are the same, Qwen2's have biases, Qwen3's norms of queries and keys.
    """
    return NameMap(
        (
            move("model.embed_tokens.weight", "embed/embedding"),
            *for_layers(layers, _hub_block(qkv_bias=qkv_bias, qk_norm=qk_norm)),
            move("model.norm.weight", "norm/scale"),
            *([] if tied else [move("lm_head.weight", "head/kernel", Transpose())]),
        ),
        ties={"lm_head.weight": "model.embed_tokens.weight"} if tied else {},
        verified=_SEEN,
    )


def llama_gguf(
    layers: int,
    *,
    heads: int,
    kv_heads: int,
    tied: bool,
    interleaved: bool = True,
    qkv_bias: bool = False,
    qk_norm: bool = False,
    rope_factors: Sequence[float] = (),
) -> NameMap:
    """GGUF files: kernels (out, in), q and k reordered for rotary pairs that are interleaved.

    Those of Qwen are as the hub has them.
    """
    reordered = _reordered(heads, kv_heads) if interleaved else {}
    block = _gguf_block(reordered, qkv_bias=qkv_bias, qk_norm=qk_norm)
    factors = {"rope_freqs.weight": np.asarray(rope_factors, np.float32)} if rope_factors else {}
    return NameMap(
        (
            move("token_embd.weight", "embed/embedding"),
            *for_layers(layers, block),
            move("output_norm.weight", "norm/scale"),
            *([] if tied else [move("output.weight", "head/kernel", Transpose())]),
        ),
        constants=factors,
        ties={"output.weight": "token_embd.weight"} if tied else {},
        verified=_SEEN,
    )


def llama2c(layers: int, *, heads: int, kv_heads: int, tied: bool) -> NameMap:
    """llama2.c files: all layers of a kind in one array, interleaved rotary pairs.

    The two tables of rotary angles in the file are no weights and are left there.
    """
    return NameMap(
        (
            move("token_embedding_table", "embed/embedding"),
            *_stacked(layers, heads, kv_heads),
            move("rms_final_weight", "norm/scale"),
            *([] if tied else [move("wcls", "head/kernel", Transpose())]),
        ),
        needless=("freq_cis_(real|imag)",),
        verified=_SEEN,
    )


def _hub_block(*, qkv_bias: bool, qk_norm: bool) -> Iterator[Move]:
    theirs, ours = "model.layers.{i}", "block_{i}"
    for name in "qkv" if qkv_bias else "":
        yield move(f"{theirs}.self_attn.{name}_proj.bias", f"{ours}/attn/{name}/bias")
    for name in "qk" if qk_norm else "":
        yield move(f"{theirs}.self_attn.{name}_norm.weight", f"{ours}/attn/{name}_norm/scale")
    yield move(f"{theirs}.input_layernorm.weight", f"{ours}/norm_1/scale")
    yield move(f"{theirs}.post_attention_layernorm.weight", f"{ours}/norm_2/scale")
    for path, name in _HUB.items():
        yield move(f"{theirs}.{name}.weight", f"{ours}/{path}/kernel", Transpose())


def _gguf_block(
    reordered: Mapping[str, tuple[Op, ...]], *, qkv_bias: bool, qk_norm: bool
) -> Iterator[Move]:
    theirs, ours = "blk.{i}", "block_{i}"
    for name in "qkv" if qkv_bias else "":
        yield move(f"{theirs}.attn_{name}.bias", f"{ours}/attn/{name}/bias")
    for name in "qk" if qk_norm else "":
        yield move(f"{theirs}.attn_{name}_norm.weight", f"{ours}/attn/{name}_norm/scale")
    yield move(f"{theirs}.attn_norm.weight", f"{ours}/norm_1/scale")
    yield move(f"{theirs}.ffn_norm.weight", f"{ours}/norm_2/scale")
    for path, name in _GGUF.items():
        ops = (*reordered.get(path, ()), Transpose())
        yield move(f"{theirs}.{name}.weight", f"{ours}/{path}/kernel", *ops)


def _stacked(layers: int, heads: int, kv_heads: int) -> Iterator[Move]:
    def each(path: str) -> list[str]:
        return [f"block_{i}/{path}" for i in range(layers)]

    yield move("rms_att_weight", each("norm_1/scale"), Unstack())
    yield move("rms_ffn_weight", each("norm_2/scale"), Unstack())
    reordered = _reordered(heads, kv_heads)
    for path, name in _LLAMA2C.items():
        ops = (Unstack(), *reordered.get(path, ()), Transpose())
        yield move(name, each(f"{path}/kernel"), *ops)


def _reordered(heads: int, kv_heads: int) -> dict[str, tuple[Op, ...]]:
    """The kernels whose rows stand as interleaved rotary pairs."""
    return {"attn/q": (Halves(heads),), "attn/k": (Halves(kv_heads),)}
