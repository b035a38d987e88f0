"""A decoder of one block with a vocabulary of two letters, the file it comes in, and its text."""

from pathlib import Path

import jax

from wlab.checkpoint import save_gguf
from wlab.models import LlamaConfig, llama
from wlab.pretrained import export, maps

WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a"]
STORY = LlamaConfig(
    layers=1, width=32, heads=4, kv_heads=4, ffn=32, vocab=len(WORDS), context=16, tied=True
)
PARAMS = llama(STORY).init(jax.random.key(0))
TEXT = "ab ab a b aab ba ab b a ab abab b aa ab a b a ba" * 3


def write_gguf(path: Path) -> None:
    """The decoder and its vocabulary, as llama.cpp has them."""
    metadata = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.block_count": 1,
        "llama.embedding_length": 32,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.feed_forward_length": 32,
        "llama.context_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -0.5],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    arrays = export(PARAMS, maps.llama_gguf(1, heads=4, kv_heads=4, tied=True))
    save_gguf(path, arrays, metadata=metadata)
