"""Pretrained weights: a folder of the hub becomes a plain tree, and the tree such a file again.

Run     python -m experiments.examples.pretrained
Expect  11 arrays loaded, the same logits, the same bytes
"""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from wlab import checkpoint, models, pretrained

SIZES = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Stands in for a download: a small LLaMA with random weights, in the hub's names."""
    config = models.LlamaConfig(1, 8, heads=2, kv_heads=1, ffn=16, vocab=32, context=16)
    model = models.llama(config)
    params = model.init(jax.random.key(0))
    name_map = pretrained.maps.llama_hub(config.layers, tied=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, again = folder / "model.safetensors", folder / "again.safetensors"
        checkpoint.save_safetensors(weights, pretrained.export(params, name_map))
        (folder / "config.json").write_text(json.dumps(SIZES))

        network = pretrained.from_hub(folder)
        print(network.plan)
        tokens = jnp.array([[1, 2, 3]])
        found = network.model.apply(network.params, tokens)
        print("the same logits:", bool(jnp.allclose(found, model.apply(params, tokens))))
        checkpoint.save_safetensors(again, pretrained.export(network.params, network.name_map))
        print("the same bytes:", weights.read_bytes() == again.read_bytes())


if __name__ == "__main__":
    main()
