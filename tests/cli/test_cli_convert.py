"""`wlab convert`, `wlab weights` and `wlab generate`, from the outside."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.checkpoint import open_source, save_gguf, save_safetensors
from wlab.cli.main import main
from wlab.models import LlamaConfig, llama
from wlab.pretrained import SOURCES, export, maps

TREE = {
    "a": {"kernel": jnp.ones((4, 3)), "bias": jnp.arange(3, dtype=jnp.bfloat16)},
    "n": jnp.int8(1),
}


def arrays_of(path) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in open_source(path).arrays.items()}


@pytest.fixture
def source(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", TREE)
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("ending", ["safetensors", "npz", "msgpack"])
def test_an_array_keeps_its_name_and_bits_in_any_format(source, tmp_path, ending):
    target = tmp_path / f"out.{ending}"
    assert main(["convert", str(source), str(target)]) == 0
    before, after = arrays_of(source), arrays_of(target)
    assert set(after) == set(before)
    for name, array in before.items():
        assert (after[name].dtype, after[name].shape) == (array.dtype, array.shape)
        assert after[name].tobytes() == array.tobytes()


def test_gguf_to_gguf_is_byte_identical(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(3, 64)).astype(np.float32) for name in ("a", "b")}
    metadata = {"general.architecture": "none", "words": ["x", "y"], "size": 3}
    save_gguf(tmp_path / "w.gguf", arrays, metadata=metadata, encodings={"a": "Q8_0"})
    assert main(["convert", str(tmp_path / "w.gguf"), str(tmp_path / "v.gguf")]) == 0
    assert (tmp_path / "v.gguf").read_bytes() == (tmp_path / "w.gguf").read_bytes()


def test_blocks_become_plain_numbers_elsewhere_and_a_dry_run_says_so(tmp_path, capsys):
    array = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    source, target = tmp_path / "w.gguf", tmp_path / "w.npz"
    save_gguf(source, {"a": array}, metadata={}, encodings={"a": "Q8_0"})
    target.write_bytes(b"mine")
    assert main(["convert", str(source), str(target), "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["arrays"]
    assert (row["from"], row["to"], row["bytes"]) == ("Q8_0", "float32", array.nbytes)
    assert result["bytes"] == array.nbytes
    assert target.read_bytes() == b"mine"


def test_floats_are_cast_and_whole_numbers_are_not(source, tmp_path):
    target = tmp_path / "out.safetensors"
    assert main(["convert", str(source), str(target), "--dtype", "float16"]) == 0
    assert {n: a.dtype.name for n, a in arrays_of(target).items()} == {
        "a/kernel": "float16",
        "a/bias": "float16",
        "n": "int8",
    }


def test_a_dry_run_writes_nothing_and_tells_what_it_would(source, tmp_path, capsys):
    target = tmp_path / "out.npz"
    command = ["convert", str(source), str(target), "--dtype", "float16", "--dry-run", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert not target.exists()
    assert not result["written"]
    assert result["bytes"] == 2 * 12 + 2 * 3 + 1
    kinds = {row["array"]: (row["from"], row["to"]) for row in result["arrays"]}
    assert kinds["a/kernel"] == ("float32", "float16")


def test_a_file_that_is_there_stays_unless_forced(source, tmp_path, capsys):
    target = tmp_path / "out.npz"
    target.write_bytes(b"mine")
    assert main(["convert", str(source), str(target)]) == 1
    assert "is there: --force replaces it" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"
    assert main(["convert", str(source), str(target), "--force"]) == 0
    assert set(arrays_of(target)) == {"a/kernel", "a/bias", "n"}


@pytest.mark.parametrize(
    ("names", "said"),
    [(("w.txt", "o.npz"), "no known format"), (("w.safetensors", "o.zip"), "must end in")],
)
def test_what_cannot_be_read_or_written_is_named(source, tmp_path, capsys, names, said):
    (tmp_path / "w.txt").write_text("hello")
    assert main(["convert", *(str(tmp_path / name) for name in names)]) == 1
    assert said in capsys.readouterr().err


def test_a_network_becomes_the_plain_tree_that_its_model_reads(tmp_path):
    config = LlamaConfig(layers=1, width=8, heads=2, kv_heads=1, ffn=12, vocab=11, context=6)
    params = llama(config).init(jax.random.key(0))
    save_safetensors(tmp_path / "model.safetensors", export(params, maps.llama_hub(1, tied=True)))
    sizes = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 12,
        "vocab_size": 11,
        "max_position_embeddings": 6,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert main(["convert", str(tmp_path), str(tmp_path / "tree.npz"), "--tree"]) == 0
    found = arrays_of(tmp_path / "tree.npz")
    np.testing.assert_array_equal(
        found["block_0/attn/q/kernel"], params["block_0"]["attn"]["q"]["kernel"]
    )


def test_every_real_network_is_listed(capsys):
    assert main(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(SOURCES)
    assert all(row["download_mb"] > 1 and row["about"] for row in rows)


def test_weights_that_are_not_the_pinned_ones_are_refused(tmp_path, capsys):
    (tmp_path / "model.pth").write_bytes(b"x")
    command = ["weights", "fetch", "resnet56-cifar10", "--file", str(tmp_path)]
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "cache/weights/resnet56-cifar10").exists()


def test_misuse_of_weights_exits_with_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["weights", "fetch"])
    assert "`fetch` needs one" in capsys.readouterr().err
