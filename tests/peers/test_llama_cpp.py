"""GGUF files that wlab wrote, read and run by llama.cpp itself (the package `xllamacpp`)."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
import xllamacpp
from vocabularies import TEXTS, WAYS, trained

from wlab import pretrained
from wlab.checkpoint import save_gguf, save_safetensors
from wlab.cli.main import main
from wlab.models import LlamaConfig, llama
from wlab.pretrained import export, from_gguf, maps, to_gguf

STORY = "Once upon a time"
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 400,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


@contextmanager
def served(path: Path) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Asks llama.cpp, which has the file open."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = str(path), 256, False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)

    def ask(what: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        url = f"{server.listening_address}/{what}"
        with urlopen(Request(url, json.dumps(body).encode(), headers)) as answer:
            return json.load(answer)

    yield ask


def tokens_by_llama_cpp(ask: Callable[..., Any], text: str) -> list[int]:
    body = {"content": text, "add_special": True, "parse_special": True}
    return ask("tokenize", body)["tokens"]


def check_what_comes_next(
    ask: Callable[..., Any], network: pretrained.Network, tokens: list[int], *, many: int
) -> bool:
    """llama.cpp finds the likeliest tokens as likely as we do, whose cache is not of float16.

    False if it says nothing: it keeps bytes to itself that are no whole character yet.
    """
    body = {"prompt": tokens, "n_predict": 1, "temperature": 0.0, "n_probs": many}
    answer = ask("completion", body)
    logits = network.model.apply(network.params, jnp.asarray([tokens]))[0, -1]
    p = np.asarray(jax.nn.log_softmax(logits))
    if "completion_probabilities" not in answer:
        return False
    found = answer["completion_probabilities"][0]["top_logprobs"]
    assert len(found) == many and found[0]["id"] == p.argmax()
    ids, said = ([each[key] for each in found] for key in ("id", "logprob"))
    np.testing.assert_allclose(said, p[ids], atol=0.02)
    return True


@pytest.mark.parametrize("format", [None, "ggml_q8_0", "ggml_q4_0"])
def test_llama_cpp_tells_the_story_of_a_network_that_was_no_gguf_file(tmp_path, format):
    path = tmp_path / "story.gguf"
    if format is None:
        arrays, metadata = to_gguf(pretrained.network("stories15m", lazy=True))
        save_gguf(path, arrays, metadata=metadata)
    else:
        assert main(["quantize", "stories15m", str(path), "--format", format]) == 0
    network = from_gguf(path)
    with served(path) as ask:
        for text in (STORY, *TEXTS, "naïve 🙂 世界\n\n  x"):
            assert tokens_by_llama_cpp(ask, text) == network.tokenizer.encode(text)
        if format is None:  # else it rounds activations too
            for text in (STORY, "The little dog", "She was happy because"):
                tokens = network.tokenizer.encode(text)
                assert check_what_comes_next(ask, network, tokens, many=20)
        said = ask("completion", {"prompt": STORY, "n_predict": 12, "temperature": 0.0})
    assert said["content"].startswith(", there was a little girl named Lily. She loved")


def test_llama_cpp_runs_a_network_that_has_lost_heads_and_hidden_units(tmp_path):
    path = tmp_path / "less.gguf"
    assert main(["shrink", "stories15m", str(path), "--density", "0.7", "--round-to", "32"]) == 0
    network = from_gguf(path)
    assert (network.config.heads, network.config.ffn, network.config.size) == (6, 544, 48)
    assert main(["shrink", "stories15m", str(path), "--density", "0.7", "--force"]) == 0
    network = from_gguf(path)
    assert (network.config.heads, network.config.ffn, network.config.size) == (4, 538, 48)
    with served(path) as ask:
        for text in (STORY, "The little dog", "She was happy because"):
            tokens = network.tokenizer.encode(text)
            assert check_what_comes_next(ask, network, tokens, many=20)


@pytest.mark.parametrize("way", list(WAYS))
def test_llama_cpp_reads_a_folder_of_the_hub_that_was_converted(tmp_path, way):
    config = LlamaConfig(
        layers=2, width=64, heads=4, kv_heads=2, ffn=96, vocab=400, context=256, tied=False
    )
    model = llama(config, kernel_init=jax.nn.initializers.normal(0.2))
    params = model.init(jax.random.key(0))
    arrays = export(params, maps.llama_hub(config.layers, tied=False))
    save_safetensors(tmp_path / "model.safetensors", arrays)
    sizes = SMALL | {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    inner = trained(way, size=390)
    inner.save(str(tmp_path / "tokenizer.json"))
    ends = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(ends))
    assert main(["convert", str(tmp_path), str(tmp_path / "w.gguf")]) == 0
    network = from_gguf(tmp_path / "w.gguf")
    with served(tmp_path / "w.gguf") as ask:
        for text in (*TEXTS, "<|begin|>the<|end|> 1 22 333 4444"):
            assert tokens_by_llama_cpp(ask, text) == inner.encode(text).ids, text
        tokens = inner.encode("".join(TEXTS)).ids
        prompts = [tokens[i : i + 5] for i in range(0, 40, 5)]
        assert sum(check_what_comes_next(ask, network, each, many=400) for each in prompts) >= 3


ANGLES = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KIN = {
    "llama 3": transformers.LlamaConfig(**SMALL, rope_parameters=ANGLES),
    "mistral": transformers.MistralConfig(**SMALL, sliding_window=None, head_dim=32),
    # Its window is wider than what llama.cpp, which has none, is asked, and narrower than the text.
    "mistral 0.1": transformers.MistralConfig(**SMALL, sliding_window=110, head_dim=32),
    "qwen2": transformers.Qwen2Config(**SMALL),
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=32),
}
CLASSES = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
}


@pytest.mark.parametrize("kin", list(KIN))
def test_networks_of_transformers_run_here_and_in_llama_cpp(tmp_path, kin):
    config = KIN[kin]
    torch.manual_seed(0)
    theirs = CLASSES[config.model_type](config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(0.1 if weight.ndim < 2 else 0.0, 0.15)
    theirs.save_pretrained(tmp_path)
    way = "qwen2" if kin.startswith("qwen") else "llama-bpe"
    inner = trained(way, size=390)
    inner.save(str(tmp_path / "tokenizer.json"))
    tokens = inner.encode("".join(TEXTS)).ids[:120]
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor([tokens])).logits.numpy()
    network = pretrained.from_hub(tmp_path)
    found = network.model.apply(network.params, jnp.asarray([tokens]))
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)
    assert main(["convert", str(tmp_path), str(tmp_path / "w.gguf")]) == 0
    with served(tmp_path / "w.gguf") as ask:
        for text in TEXTS:
            assert tokens_by_llama_cpp(ask, text) == inner.encode(text).ids, text
        prompts = [tokens[: 30 + i] for i in range(0, 90, 15)]  # far enough for the angles to tell
        assert sum(check_what_comes_next(ask, network, each, many=400) for each in prompts) >= 3
