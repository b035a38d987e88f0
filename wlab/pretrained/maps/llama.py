"""LLaMA decoders in three spellings, into `wlab.models.llama`."""

from collections.abc import Iterator

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
_SEEN = "tests/pretrained/test_llama_networks.py: outputs of an independent forward pass"


def llama_hub(layers: int, *, tied: bool) -> NameMap:
    """`LlamaForCausalLM` of the hub: kernels (out, in), rotary pairs as halves."""
    return NameMap(
        (
            move("model.embed_tokens.weight", "embed/embedding"),
            *for_layers(layers, _hub_block()),
            move("model.norm.weight", "norm/scale"),
            *([] if tied else [move("lm_head.weight", "head/kernel", Transpose())]),
        ),
        ties={"lm_head.weight": "model.embed_tokens.weight"} if tied else {},
        verified=_SEEN,
    )


def llama_gguf(layers: int, *, heads: int, kv_heads: int, tied: bool) -> NameMap:
    """GGUF files: kernels (out, in), q and k reordered for interleaved rotary pairs."""
    return NameMap(
        (
            move("token_embd.weight", "embed/embedding"),
            *for_layers(layers, _gguf_block(heads, kv_heads)),
            move("output_norm.weight", "norm/scale"),
            *([] if tied else [move("output.weight", "head/kernel", Transpose())]),
        ),
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


def _hub_block() -> Iterator[Move]:
    theirs, ours = "model.layers.{i}", "block_{i}"
    yield move(f"{theirs}.input_layernorm.weight", f"{ours}/norm_1/scale")
    yield move(f"{theirs}.post_attention_layernorm.weight", f"{ours}/norm_2/scale")
    for path, name in _HUB.items():
        yield move(f"{theirs}.{name}.weight", f"{ours}/{path}/kernel", Transpose())


def _gguf_block(heads: int, kv_heads: int) -> Iterator[Move]:
    theirs, ours = "blk.{i}", "block_{i}"
    yield move(f"{theirs}.attn_norm.weight", f"{ours}/norm_1/scale")
    yield move(f"{theirs}.ffn_norm.weight", f"{ours}/norm_2/scale")
    for path, name in _GGUF.items():
        ops = (*_reordered(path, heads, kv_heads), Transpose())
        yield move(f"{theirs}.{name}.weight", f"{ours}/{path}/kernel", *ops)


def _stacked(layers: int, heads: int, kv_heads: int) -> Iterator[Move]:
    def each(path: str) -> list[str]:
        return [f"block_{i}/{path}" for i in range(layers)]

    yield move("rms_att_weight", each("norm_1/scale"), Unstack())
    yield move("rms_ffn_weight", each("norm_2/scale"), Unstack())
    for path, name in _LLAMA2C.items():
        ops = (Unstack(), *_reordered(path, heads, kv_heads), Transpose())
        yield move(name, each(f"{path}/kernel"), *ops)


def _reordered(path: str, heads: int, kv_heads: int) -> tuple[Op, ...]:
    return {"attn/q": (Halves(heads),), "attn/k": (Halves(kv_heads),)}.get(path, ())
