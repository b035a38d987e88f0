"""Networks that wlab wrote, run by the transformers package; `make test-peers` installs it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from vocabularies import trained

from wlab import pretrained
from wlab.checkpoint import save_safetensors
from wlab.cli.main import main
from wlab.models import LlamaConfig, llama
from wlab.pretrained import export, maps

TOKENS = np.array([[101, 7592, 2088, 102], [101, 2748, 102, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


def written(folder: Path, params, name_map, sizes: dict) -> Path:
    arrays = export(params, name_map)
    save_safetensors(folder / "model.safetensors", arrays, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(sizes))
    for name, array in load_file(folder / "model.safetensors").items():
        np.testing.assert_array_equal(array, np.asarray(arrays[name]), err_msg=name)
    return folder


def run(kind, folder: Path, **inputs: np.ndarray):
    """The peer's output, if it found every weight of its own and no other."""
    model, said = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    with torch.no_grad():
        return model.eval()(**{name: torch.asarray(array) for name, array in inputs.items()})


def test_minilm_written_by_wlab_runs_in_transformers(tmp_path):
    network = pretrained.network("minilm")
    folder = pretrained.fetch("minilm")
    sizes = json.loads((folder / "config.json").read_text())
    path = written(tmp_path, network.params, network.name_map, sizes)
    theirs = run(transformers.BertModel, path, input_ids=TOKENS, attention_mask=MASK)
    ours = network.model.apply(network.params, jnp.asarray(TOKENS), mask=jnp.asarray(MASK, bool))
    seen = MASK.astype(bool)
    np.testing.assert_allclose(
        np.asarray(ours.states)[seen], theirs.last_hidden_state.numpy()[seen], atol=1e-5
    )
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=1e-5)


def llama_sizes(config: LlamaConfig) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_base,
        "rms_norm_eps": config.epsilon,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    }


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_written_by_wlab_runs_in_transformers(tied, tmp_path):
    config = LlamaConfig(
        layers=2, width=24, heads=6, kv_heads=3, ffn=40, vocab=97, context=16, tied=tied
    )
    model = llama(config, kernel_init=jax.nn.initializers.normal(0.3))
    params = model.init(jax.random.key(0))
    name_map = maps.llama_hub(config.layers, tied=tied)
    path = written(tmp_path, params, name_map, llama_sizes(config))
    tokens = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    theirs = run(transformers.LlamaForCausalLM, path, input_ids=tokens)
    ours = model.apply(params, jnp.asarray(tokens))
    np.testing.assert_allclose(ours, theirs.logits.numpy(), rtol=1e-4, atol=1e-4)


def test_smollm2_taken_from_gguf_to_a_folder_of_the_hub_says_the_same(tmp_path):
    network = pretrained.network("smollm2-135m")
    source, folder = pretrained.fetch("smollm2-135m") / "model.gguf", tmp_path / "hub"
    assert main(["convert", str(source), str(folder), "--dtype", "float32"]) == 0
    words = transformers.AutoTokenizer.from_pretrained(folder)
    text = "The capital of France is"
    tokens = network.tokenizer.encode(text)
    for each in (text, "  12345 they'll\n\nsee naïve 🙂 世界 <|im_start|>x"):
        assert words(each)["input_ids"] == network.tokenizer.encode(each)
    theirs = run(transformers.AutoModelForCausalLM, folder, input_ids=np.array([tokens])).logits
    ours = np.asarray(network.model.apply(network.params, jnp.asarray([tokens])))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=2e-3)
    assert words.decode(int(theirs[0, -1].argmax())).strip() == "Paris"


def test_stories15m_in_a_folder_of_the_hub_tells_its_story(tmp_path):
    network = pretrained.network("stories15m", lazy=True)
    pretrained.save_hub(tmp_path, network)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    given = words("Once upon a time", return_tensors="pt")
    assert given["input_ids"][0].tolist() == network.tokenizer.encode("Once upon a time")
    with torch.no_grad():
        said = model.generate(given["input_ids"], max_new_tokens=20, do_sample=False)[0]
    assert words.decode(said, skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside"
    )


@pytest.mark.parametrize("encoding", [None, "ggml_q8_0"])
def test_a_folder_written_as_gguf_runs_in_transformers(tmp_path, encoding):
    config = LlamaConfig(
        layers=2, width=64, heads=4, kv_heads=2, ffn=96, vocab=310, context=32, tied=False
    )
    model = llama(config, kernel_init=jax.nn.initializers.normal(0.1))
    params = model.init(jax.random.key(0))
    written(tmp_path, params, maps.llama_hub(config.layers, tied=False), llama_sizes(config))
    inner = trained("smollm", size=config.vocab - 3)
    inner.save(str(tmp_path / "tokenizer.json"))
    ends = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(ends))
    argv = ["quantize", "--format", encoding] if encoding else ["convert"]
    assert main([*argv, str(tmp_path), str(tmp_path / "w.gguf")]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="w.gguf")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="w.gguf")
    text = "the 1984 dogs they'll see 3 cats"
    tokens = inner.encode(text).ids
    assert words(text)["input_ids"] == tokens
    network = pretrained.from_gguf(tmp_path / "w.gguf")
    assert network.tokenizer.encode(text) == tokens
    with torch.no_grad():
        said = theirs.eval()(input_ids=torch.tensor([tokens])).logits.numpy()
    ours = network.model.apply(network.params, jnp.asarray([tokens]))
    np.testing.assert_allclose(ours, said, rtol=1e-4, atol=1e-4)
    dense = model.apply(params, jnp.asarray([tokens]))
    np.testing.assert_allclose(ours, dense, atol=0.2 if encoding else 1e-5)
