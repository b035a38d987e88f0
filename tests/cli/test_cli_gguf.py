"""`wlab quantize`, `verify`, `convert`: from a folder of the hub to what llama.cpp reads."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from verbs import run_json, said

from wlab import tree
from wlab.checkpoint import open_source, save_gguf, save_safetensors
from wlab.cli.main import main
from wlab.models import LlamaConfig, llama
from wlab.pretrained import export, from_gguf, from_hub, maps, text, to_gguf

WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a"]
CONFIG = LlamaConfig(
    layers=1, width=32, heads=4, kv_heads=2, ffn=64, vocab=len(WORDS), context=16, tied=True
)
PARAMS = llama(CONFIG).init(jax.random.key(0))
SIZES = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
KERNELS = [
    f"blk.0.{name}.weight"
    for name in ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")
]


@pytest.fixture
def folder(tmp_path) -> Path:
    found = tmp_path / "hub"
    found.mkdir()
    save_safetensors(
        found / "model.safetensors", dict(export(PARAMS, maps.llama_hub(1, tied=True)))
    )
    (found / "config.json").write_text(json.dumps(SIZES))
    scores = [0.0] * 259 + [-1.0, -2.0, -3.0, -0.5]
    words = {"model": "llama", "tokens": WORDS, "scores": scores, "bos_token_id": 1}
    inner = text.from_gguf({f"tokenizer.ggml.{key}": value for key, value in words.items()}).inner
    inner.save(str(found / "tokenizer.json"))
    return found


@pytest.fixture
def story(tmp_path) -> Path:
    (tmp_path / "t.txt").write_text("ab ab a b aab ba ab b a ab abab b aa ab a b a ba" * 3)
    return tmp_path / "t.txt"


def test_a_folder_is_quantized_to_the_blocks_of_its_gguf_file(folder, story, tmp_path, capsys):
    plain, target, again = (tmp_path / f"{name}.gguf" for name in ("plain", "q", "again"))
    result = run_json(capsys, "quantize", folder, target, "--format", "ggml_q8_0")
    assert sorted(row["leaf"] for row in result["leaves"]) == KERNELS
    found = open_source(target)
    assert found.metadata["general.file_type"] == 7
    arrays, metadata = to_gguf(from_hub(folder))
    save_gguf(plain, arrays, metadata=metadata)
    assert main(["quantize", str(plain), str(again), "--format", "ggml_q8_0"]) == 0
    assert again.read_bytes() == target.read_bytes()
    capsys.readouterr()
    told = run_json(capsys, "verify", folder, target, "--data", story, "--context", "8")
    assert sorted(row["leaf"] for row in told["leaves"]) == KERNELS and told["others"] == []
    assert told["text"]["kl"] < 1e-4 and told["text"]["agreement"] > 0.9
    x = jax.numpy.arange(8)[None]
    network = from_gguf(target)
    says = network.model.apply(network.params, x)
    np.testing.assert_allclose(says, llama(CONFIG).apply(PARAMS, x), atol=0.01)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_folder_is_quantized_to_gguf_by_a_text(folder, story, tmp_path, capsys, method):
    target = tmp_path / "q.gguf"
    flags = ["--format", "ggml_q4_0", "--method", method, "--data", story, "--context", "8"]
    result = run_json(capsys, "quantize", folder, target, *flags)
    assert len(result["leaves"]) == len(KERNELS)
    told = run_json(capsys, "verify", folder, target, "--data", story, "--context", "8")
    assert [row["leaf"] for row in told["leaves"]] and told["text"]["kl"] < 0.01


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_is_converted_to_what_llama_cpp_reads(folder, tmp_path, capsys, dtype):
    target = tmp_path / "w.gguf"
    result = run_json(capsys, "convert", folder, target, "--dtype", dtype)
    kinds = {len(row["shape"]): row["to"] for row in result["arrays"]}
    assert kinds == {1: "float32", 2: dtype}
    network = from_gguf(target)
    for path, leaf in tree.leaves(network.params).items():
        wanted = np.asarray(tree.leaves(PARAMS)[path]).astype(dtype)
        np.testing.assert_array_equal(leaf, wanted, err_msg=path)
    assert network.tokenizer.encode("ab") == from_hub(folder).tokenizer.encode("ab") == [262, 261]
    assert network.tokenizer.eos == 2


def test_a_gguf_file_is_converted_to_a_folder_of_the_hub(folder, tmp_path, capsys):
    plain, target = tmp_path / "w.gguf", tmp_path / "again"
    assert main(["convert", str(folder), str(plain)]) == 0
    capsys.readouterr()
    result = run_json(capsys, "convert", plain, target)
    assert result["format"] == "gguf" and len(result["arrays"]) == 11
    before, after = (open_source(each / "model.safetensors").arrays for each in (folder, target))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name].read(), after[name].read()) for name in before)
    assert from_hub(target).tokenizer.encode("ab") == from_hub(folder).tokenizer.encode("ab")
    assert "is there: --force" in said(capsys, "convert", plain, target)
    half = tmp_path / "Llama-3.2-half"
    result = run_json(capsys, "convert", target, half, "--dtype", "float16")
    assert {row["to"] for row in result["arrays"]} == {"float16"}
    found = from_hub(half)
    assert {leaf.dtype.name for leaf in tree.leaves(found.params).values()} == {"float16"}
    weights = folder / "model.safetensors"
    assert "End it in .safetensors" in said(capsys, "convert", weights, tmp_path / "other")


def test_a_question_is_put_by_the_networks_template(folder, capsys):
    flags = ["--steps", "3", "--temperature", "0"]
    assert "leave out --chat" in said(capsys, "generate", folder, "ab", "--chat", *flags)
    template = "<s>{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}</s>a"
    several = [{"name": "other", "template": "b"}, {"name": "default", "template": template}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    answer = run_json(capsys, "generate", folder, "ab", "--chat", *flags)
    [whole] = run_json(capsys, "generate", folder, "userab</s>a", *flags)["texts"]
    assert answer["tokens"] == 3 and whole.endswith(answer["texts"][0])
    assert "user" in whole and "user" not in answer["texts"][0]
    told = run_json(capsys, "generate", folder, "ab", "--chat", "--system", "b", *flags)
    [whole] = run_json(capsys, "generate", folder, "systembuserab</s>a", *flags)["texts"]
    assert whole.endswith(told["texts"][0])
    with pytest.raises(SystemExit):
        main(["generate", str(folder), "ab", "--system", "b"])
    assert "--system goes with --chat" in capsys.readouterr().err


def test_other_networks_have_no_gguf_file(folder, tmp_path, capsys):
    target = tmp_path / "q.gguf"
    (folder / "config.json").write_text(json.dumps(SIZES | {"model_type": "mamba"}))
    error = said(capsys, "quantize", folder, target, "--format", "ggml_q8_0")
    assert "the network is a 'mamba'" in error
    (folder / "config.json").write_text(json.dumps(SIZES))
    (folder / "tokenizer.json").unlink()
    error = said(capsys, "quantize", folder, target, "--format", "ggml_q8_0")
    assert "has no tokenizer" in error and not target.exists()
