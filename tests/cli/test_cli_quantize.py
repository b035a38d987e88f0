"""`wlab quantize`, `plan` and `verify`, from the outside, against NumPy and the files' bytes."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from story import PARAMS, STORY, TEXT
from verbs import run_json, said

from wlab import tree
from wlab.checkpoint import Lazy, open_source, save_gguf, save_npz, save_safetensors
from wlab.checkpoint.formats.gguf_blocks import decode, encode
from wlab.checkpoint.packed import SCHEMA, load_packed
from wlab.cli import quantized_k, quantized_leaves
from wlab.cli.logit_distance import logit_distance
from wlab.cli.main import main
from wlab.cli.quantized_leaves import EMBEDDING, NORM
from wlab.models import llama
from wlab.pretrained import export, from_gguf, maps
from wlab.quantization.files import from_arrays
from wlab.quantization.gguf_k_blocks import k_blocks
from wlab.quantization.k_quants import KQuant

FLAT = {path: np.asarray(leaf) for path, leaf in tree.leaves(PARAMS).items()}
KERNELS = [path for path in FLAT if path.endswith("kernel")]


@pytest.fixture
def source(tmp_path) -> str:
    save_safetensors(tmp_path / "w.safetensors", PARAMS, metadata={"made by": "a test"})
    return str(tmp_path / "w.safetensors")


def arrays_of(path) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in open_source(path).arrays.items()}


def nearest(x: np.ndarray, *, group: int, steps: int = 7) -> np.ndarray:
    """int4 along the inputs, float16 scales, written anew: amax / 7, halves to even."""
    out = np.empty_like(x)
    for at in range(0, len(x), group):
        rows = x[at : at + group]
        scale = (np.abs(rows).max(0) * np.float32(1 / steps)).astype(np.float16).astype(np.float32)
        codes = np.clip(np.round(rows * (np.float32(1) / scale)), -steps, steps)
        out[at : at + group] = codes * scale
    return out


def test_the_file_holds_the_nearest_codes_of_kernels_and_the_rest_as_it_was(
    source, tmp_path, capsys
):
    target = tmp_path / "q.safetensors"
    flags = ["--format", "int4", "--group", "12"]
    result = run_json(capsys, "quantize", source, target, *flags)
    assert [row["leaf"] for row in result["leaves"]] == KERNELS
    leaves = from_arrays(*load_packed(target))
    verified = run_json(capsys, "verify", source, target)
    for row, checked in zip(result["leaves"], verified["leaves"], strict=True):
        x = FLAT[row["leaf"]]
        wanted = nearest(x, group=12)
        errors = np.abs(x.astype(np.float64) - wanted)
        noise = 10 * np.log10(np.square(x, dtype=np.float64).sum() / np.square(errors).sum())
        np.testing.assert_allclose([row["sqnr_db"], checked["sqnr_db"]], noise, rtol=1e-4)
        assert row["largest_error"] == pytest.approx(errors.max(), rel=1e-5)
        worst = checked["worst"][0]
        assert worst["before"] == x[tuple(worst["index"])]
        assert abs(worst["before"] - worst["after"]) == errors.max() == checked["largest_error"]
        groups, bits = -(-len(x) // 12), 4 + 16 * -(-len(x) // 12) / len(x)
        assert row["bits"] == bits and row["disk"] == x.size // 2 + 2 * groups * x.shape[1]
        assert leaves[row["leaf"]].format.group_size == 12
    assert verified["others"] == []
    assert verified["equal"] == [path for path in FLAT if path not in KERNELS]
    header = 8 + int.from_bytes(target.read_bytes()[:8], "little")
    assert result["file"] == target.stat().st_size == header + result["totals"][-1]["disk"]
    assert open_source(target).metadata["made by"] == "a test"


def test_plan_tells_from_headers_the_bytes_that_quantize_writes(
    source, tmp_path, capsys, monkeypatch
):
    flags = ["--format", "int4", "--group", "12", "--rules", "embed/.*=int8:8", ".*down.*=no"]
    done = run_json(capsys, "quantize", source, tmp_path / "q.safetensors", *flags)
    monkeypatch.setattr("wlab.checkpoint.source.aligned_empty", None)  # nothing can be read
    told = run_json(capsys, "plan", source, *flags)
    measured = ("sqnr_db", "largest_error", "saturated", "outliers")
    for row in done["leaves"]:
        assert None not in [row.pop(key) for key in measured]
    for row in told["leaves"]:
        assert {row.pop(key) for key in measured} == {None}
    for key in ("leaves", "left_alone", "totals"):
        assert told[key] == done[key]
    why = {row["leaf"]: row["why"] for row in told["left_alone"]}
    assert why["block_0/down/kernel"] == "a rule"
    assert why["norm/scale"] == "a norm"
    assert why.keys() & {"embed/embedding"} == set()
    assert main(["plan", source, "--format", "int4"]) == 0
    text = capsys.readouterr().out
    assert "left alone, an embedding, gathered: 1 (embed/embedding)" in text
    assert "norms" in text and "nothing was read but headers" in text


def test_a_dry_run_measures_and_writes_nothing(source, tmp_path, capsys):
    target = tmp_path / "q.safetensors"
    flags = ["--format", "int4", "--group", "12"]
    told = run_json(capsys, "quantize", source, target, *flags, "--dry-run")
    assert not target.exists() and told["leaves"][0]["sqnr_db"] > 15
    done = run_json(capsys, "quantize", source, target, *flags)
    assert told["leaves"] == done["leaves"] and told["totals"] == done["totals"]
    assert (told["written"], done["written"]) == (False, True)


def test_saturated_codes_and_outliers_are_counted(tmp_path, capsys):
    x = np.random.default_rng(0).uniform(-20, 20, (100, 40)).astype(np.float32)
    x[7, ::2], x[7, 1::2] = 127.5, -127.5  # steps of 1, codes −128 to 127
    save_npz(tmp_path / "x.npz", {"w": x})
    target = tmp_path / "q.safetensors"
    result = run_json(
        capsys, "quantize", tmp_path / "x.npz", target, "--format", "qwix_int8", "--dry-run"
    )
    (row,) = result["leaves"]
    assert row["outliers"] == pytest.approx(40 / 4000)
    assert row["saturated"] == pytest.approx(20 / 4000)


def test_hqq_needs_no_data_and_stores_minima(source, tmp_path, capsys):
    flags = ["--format", "int4", "--group", "12", "--rules", ".*/q/.*=yes", ".*=no"]
    target = tmp_path / "h.safetensors"
    assert main(["quantize", source, str(target), *flags, "--method", "hqq"]) == 0
    leaf = from_arrays(*load_packed(target))["block_0/attn/q/kernel"]
    assert leaf.format.grid.zero == "minimum" and leaf.zero_point.dtype == np.float16
    assert leaf.scale.shape == (3, 32)  # 12, 12 and 8 inputs
    capsys.readouterr()
    (row,) = run_json(capsys, "verify", source, target)["leaves"]
    assert row["sqnr_db"] > 18


def test_a_gguf_file_has_the_same_blocks_from_rows_and_from_a_tree(gguf_file, tmp_path, capsys):
    rows, turned = tmp_path / "r.gguf", tmp_path / "t.gguf"
    flags = ["--format", "ggml_q4_0"]
    result = run_json(capsys, "quantize", gguf_file, rows, *flags)
    assert {row["bits"] for row in result["leaves"]} == {4.5}
    assert {row["disk"] for row in result["leaves"]} == {32 * 18}
    made = run_json(capsys, "quantize", gguf_file, turned, *flags, "--tree")
    planned = run_json(capsys, "plan", gguf_file, *flags, "--tree")
    assert [row["leaf"] for row in planned["leaves"]] == KERNELS
    assert planned["totals"] == made["totals"]
    verified = run_json(capsys, "verify", gguf_file, rows)
    assert verified["others"] == []
    assert {row["format"] for row in verified["leaves"]} == {"Q4_0"}
    for one, other in zip(result["leaves"], verified["leaves"], strict=True):
        assert one["sqnr_db"] == pytest.approx(other["sqnr_db"], rel=1e-4)
    before, one, other = (open_source(path).arrays for path in (gguf_file, rows, turned))
    assert set(one) == set(other) == set(before)
    for name, array in before.items():
        if name.startswith("blk") and "norm" not in name:
            wanted = encode(array.read(), "Q4_0")  # ggml's own rounding
            for found in (one[name], other[name]):
                assert found.encoding == "Q4_0"
                np.testing.assert_array_equal(found.blocks(), wanted)
        else:
            assert one[name].dtype == other[name].dtype == "float32"
            np.testing.assert_array_equal(one[name].read(), array.read())
            np.testing.assert_array_equal(other[name].read(), array.read())
    capsys.readouterr()
    assert main(["plan", str(rows), *flags]) == 0
    assert "coded in the source already, errors add up: 7 (Q4_0)" in capsys.readouterr().out
    words = open_source(rows).metadata
    assert (words["general.file_type"], words["general.quantization_version"]) == (2, 2)


def test_the_distance_of_two_predictions_is_that_of_numpy():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 5, 5)).astype(np.float32)  # logits by the last token
    tokens = rng.integers(0, 5, 14).astype(np.int32)
    model = SimpleNamespace(apply=lambda table, rows: table[rows])
    network = SimpleNamespace(model=model, params=jax.numpy.asarray(one))
    found = logit_distance(network, jax.numpy.asarray(other), tokens, context=3, batch=3)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in np.float64([one, other]))
    seen, said = tokens[:12], tokens[1:13]  # four windows of three; one token is left
    wanted = (
        -np.log(p[seen, said]).mean(),
        -np.log(q[seen, said]).mean(),
        (p * np.log(p / q)).sum(1)[seen].mean(),
        (p.argmax(1) == q.argmax(1))[seen].mean(),
        12,
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_run_that_was_cut_off_goes_on_block_by_block(method, gguf_file, words, tmp_path, capsys):
    targets, folder = [tmp_path / f"{name}.safetensors" for name in "ab"], tmp_path / "parts"
    flags = ["--format", "int3", "--group", "16", "--method", method, "--data", words]
    flags += ["--windows", "4", "--resume", folder]
    run_json(capsys, "quantize", gguf_file, targets[0], *flags, "--context", "8")
    block, *others = sorted(folder.iterdir())
    assert len(others) == len({name.split("/")[0] for name in KERNELS}) - 1
    block.unlink()
    run_json(capsys, "quantize", gguf_file, targets[1], *flags, "--context", "8")
    assert targets[0].read_bytes() == targets[1].read_bytes() and block.exists()
    error = said(
        capsys, "quantize", gguf_file, tmp_path / "c.safetensors", *flags, "--context", "7"
    )
    assert "of other weights, batches or options: give another folder" in error
    with pytest.raises(SystemExit, match="2"):
        flags = ["--format", "int4", "--resume", str(folder)]
        main(["quantize", str(gguf_file), str(tmp_path / "c.safetensors"), *flags])
    assert "--resume goes with --method gptq and awq" in capsys.readouterr().err


@pytest.mark.long
def test_methods_that_read_a_text_are_better_for_the_network_and_verify_reads_it(
    gguf_file, words, tmp_path, capsys
):
    found, text = {}, ["--data", words, "--context", "8"]
    for method, more in (("gptq", text), ("awq", text), ("nearest", ["--tree"])):
        target = tmp_path / f"{method}.safetensors"
        flags = ["--format", "int3", "--group", "16", "--method", method, *more]
        result = run_json(capsys, "quantize", gguf_file, target, *flags)
        assert [row["leaf"] for row in result["leaves"]] == KERNELS
        flags = ["--tree", "--data", words, "--context", "8"]
        found[method] = run_json(capsys, "verify", gguf_file, target, *flags)["text"]
    assert 0 < max(found["gptq"]["kl"], found["awq"]["kl"]) < found["nearest"]["kl"]
    assert found["gptq"]["perplexity"] == found["nearest"]["perplexity"]
    network = from_gguf(gguf_file)
    tokens = network.tokenizer.encode(TEXT)
    assert found["gptq"]["tokens"] == (len(tokens) - 1) // 8 * 8


def test_awq_on_a_text_moves_scales_to_other_leaves(gguf_file, words, tmp_path, capsys):
    target = tmp_path / "q.gguf"
    flags = ["--format", "ggml_q8_0", "--method", "awq", "--data", words, "--context", "8"]
    result = run_json(capsys, "quantize", gguf_file, target, *flags)
    assert [row["leaf"] for row in result["leaves"]] == KERNELS
    assert min(row["sqnr_db"] for row in result["leaves"]) > 40  # of the scaled weights
    found, tokens = from_gguf(target), jax.numpy.arange(8)[None]
    for path in (path for path in FLAT if "norm" in path):
        is_scaled = path.startswith("block")  # what the last one divides reads no kernel
        assert (np.abs(tree.leaves(found.params)[path] - 1).max() > 0.01) == is_scaled, path
    says = found.model.apply(found.params, tokens)
    np.testing.assert_allclose(says, llama(STORY).apply(PARAMS, tokens), atol=0.02)


@pytest.mark.long
def test_verify_compares_what_awq_scaled_by_what_the_network_says(
    gguf_file, words, tmp_path, capsys
):
    target, data = tmp_path / "q.safetensors", ["--data", words, "--context", "8"]
    flags = ["--format", "ggml_q8_0", "--method", "awq", *data]
    assert main(["quantize", gguf_file, str(target), *flags]) == 0
    capsys.readouterr()
    told = run_json(capsys, "verify", gguf_file, target, "--tree", *data)
    assert told["text"]["kl"] < 1e-4 and told["text"]["agreement"] > 0.9
    assert told["scaled"]
    assert told["others"] == [p for p in FLAT if "norm" in p and p.startswith("block")]
    assert main(["verify", gguf_file, str(target), "--tree"]) == 0
    assert "awq scaled channels" in capsys.readouterr().out


@pytest.mark.long
def test_verify_of_a_file_s_own_names_reads_the_text_alike(gguf_file, words, tmp_path, capsys):
    target, data = tmp_path / "q.safetensors", ["--data", words, "--context", "8"]
    assert main(["quantize", gguf_file, str(target), "--format", "ggml_q8_0"]) == 0
    capsys.readouterr()
    told = run_json(capsys, "verify", gguf_file, target, *data)
    assert told["text"]["kl"] < 1e-4 and told["text"]["agreement"] > 0.9
    assert main(["verify", gguf_file, str(target), *data]) == 0
    assert "perplexity " in capsys.readouterr().out
    error = said(capsys, "verify", gguf_file, target, "--tree")
    assert "is in" in error and "give --tree here too" in error


@pytest.fixture
def hub_folder(tmp_path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    save_safetensors(
        folder / "model.safetensors", dict(export(PARAMS, maps.llama_hub(1, tied=True)))
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 32}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("flags", "kind", "bits"),
    [
        (["--format", "int4", "--group", "8"], "pack-quantized", 4 + 16 / 8 + 128 / 1024),
        (["--format", "fp8_e4m3"], "float-quantized", 8 + 16 / 32),
    ],
)
def test_a_folder_of_the_hub_becomes_one_of_compressed_tensors(
    hub_folder, tmp_path, capsys, flags, kind, bits
):
    target = tmp_path / "out"
    result = run_json(capsys, "quantize", hub_folder, target, *flags)
    assert {row["bits"] for row in result["leaves"]} == {bits}  # with the shape of each
    config = json.loads((target / "config.json").read_text())
    assert config["hidden_size"] == 32 and config["quantization_config"]["format"] == kind
    assert (target / "tokenizer.json").read_text() == "{}"
    verified = run_json(capsys, "verify", hub_folder, target)
    assert verified["others"] == []
    # What is read has the scales' dtype, float16.
    for one, other in zip(result["leaves"], verified["leaves"], strict=True):
        assert one["sqnr_db"] == pytest.approx(other["sqnr_db"], abs=0.02)
    assert "is quantized already" in said(capsys, "quantize", target, tmp_path / "x", *flags)


def test_a_folder_takes_a_folder_and_whole_groups(hub_folder, source, tmp_path, capsys):
    out, flags = tmp_path / "out", ["--format", "int4", "--group"]
    error = said(capsys, "quantize", source, out, *flags, "8")
    assert "is no folder of the hub" in error
    error = said(capsys, "quantize", hub_folder, out, *flags, "12")
    assert "mlp.down_proj.weight': 32 inputs leave a short last group of 12" in error
    error = said(capsys, "quantize", hub_folder, out, "--format", "nf4")
    assert "mlp.down_proj.weight' of [32, 32] is nf4" in error
    assert not out.exists()


@pytest.fixture
def wide_gguf(tmp_path) -> tuple[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = {"ffn_up": (3, 512), "ffn_gate": (3, 256), "ffn_down": (2, 96), "attn_norm": (512,)}
    arrays = {
        f"blk.0.{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_gguf(tmp_path / "wide.gguf", arrays, metadata={"general.architecture": "llama"})
    return str(tmp_path / "wide.gguf"), arrays


@pytest.mark.parametrize(("encoding", "nbytes"), [("Q4_K", 144), ("Q6_K", 210)])
def test_k_quants_are_their_blocks_and_are_read_back(wide_gguf, tmp_path, capsys, encoding, nbytes):
    (source, arrays), target = wide_gguf, tmp_path / "k.gguf"
    flags = ["--format", f"ggml_{encoding.lower()}", "--rules", ".*down.*=ggml_q5_0"]
    result = run_json(capsys, "quantize", source, target, *flags)
    rows = {row["leaf"]: row for row in result["leaves"]}
    file = open_source(target)
    for name, x in arrays.items():
        if "up" in name or "gate" in name:
            blocks = k_blocks(x, encoding)
            np.testing.assert_array_equal(file.arrays[name].blocks(), blocks)
            np.testing.assert_array_equal(file.arrays[name].read(), decode(blocks, encoding))
            assert rows[name]["disk"] == blocks.size == x.size // 256 * nbytes
    assert file.arrays["blk.0.ffn_down.weight"].encoding == "Q5_0"
    assert file.metadata["general.file_type"] == {"Q4_K": 14, "Q6_K": 18}[encoding]
    verified = {row["leaf"]: row for row in run_json(capsys, "verify", source, target)["leaves"]}
    for name, row in rows.items():
        assert row["sqnr_db"] == pytest.approx(verified[name]["sqnr_db"], rel=1e-4)
    planned = run_json(capsys, "plan", source, *flags)
    assert planned["totals"][-1]["disk"] == result["totals"][-1]["disk"]


def test_a_k_quant_of_a_leaf_whose_inputs_come_first_is_that_of_its_rows():
    x = np.random.default_rng(0).standard_normal((512, 3)).astype(np.float32)
    plain, found = Lazy(x.shape, "float32", x.nbytes, lambda: x), {}
    leaf = quantized_k.leaf(plain, KQuant("Q6_K", axis=-2), plain.read, np.transpose, found)
    assert (leaf.shape, leaf.nbytes) == ((3, 512), 3 * 2 * 210)
    np.testing.assert_array_equal(leaf.blocks(), k_blocks(x.T, "Q6_K"))
    assert 33 < found["sqnr_db"] < 36


def test_k_quants_that_cannot_be_name_what_to_do(wide_gguf, gguf_file, tmp_path, capsys):
    (source, _), target = wide_gguf, tmp_path / "k.gguf"
    flags = ["--format", "ggml_q4_k"]
    error = said(capsys, "quantize", source, target, *flags)
    assert "ffn_down.weight' has 96 inputs, not whole Q4_K blocks of 256" in error
    assert "as ggml_q5_0" in error and "=no'" in error
    flags += ["--rules", ".*down.*=no"]
    error = said(capsys, "quantize", source, tmp_path / "k.safetensors", *flags)
    assert "ggml Q4_K is of GGUF files alone" in error
    error = said(capsys, "plan", gguf_file, *flags, "--method", "gptq")
    assert "takes --method nearest, not gptq" in error
    assert not target.exists()


def test_quantizing_twice_and_other_refusals_name_what_to_do(source, tmp_path, capsys):
    target = tmp_path / "q.safetensors"
    flags = ["--format", "int4", "--group", "12"]
    assert main(["quantize", source, str(target), *flags]) == 0
    again = tmp_path / "again.safetensors"
    error = said(capsys, "quantize", target, again, *flags)
    assert "is quantized already" in error and "6 more leaves" in error
    assert "is quantized already" in said(capsys, "plan", target, *flags)
    assert "is there: --force" in said(capsys, "quantize", source, target, *flags)
    error = said(capsys, "quantize", source, again, *flags, "--method", "gptq", "--data", "x")
    assert "what runs them is not known" in error and "nearest and hqq quantize" in error
    error = said(capsys, "verify", source, target, "--data", "x")
    assert "what runs them is not known" in error
    error = said(capsys, "quantize", source, tmp_path / "x.gguf", "--format", "ggml_q4_0")
    assert "does not name its arrays as ggml does" in error
    assert "rule 'hed.*' matches no leaf" in said(
        capsys, "quantize", source, again, *flags, "--rules", "hed.*=no"
    )
    assert not again.exists() and not (tmp_path / "x.gguf").exists()


def test_what_cannot_be_quantized_is_named_and_leaves_no_file(tmp_path, capsys):
    target = tmp_path / "q.safetensors"

    def error(array: np.ndarray, *flags: str) -> str:
        save_npz(tmp_path / "x.npz", {"a.b": array})
        found = said(capsys, "quantize", tmp_path / "x.npz", target, "--format", "int8", *flags)
        assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
        return found

    assert r"leaf 'a.b' holds NaN or infinity" in error(np.float32([[np.nan], [1]]))
    assert "Give --dtype float32" in error(np.ones((2, 2)))
    assert "none of the 1 leaves is selected" in error(np.ones(3, np.float32))
    assert "is int8, which is not quantized" in error(np.ones((2, 2), np.int8), "--rules", ".*=yes")
    assert "axis -3 is out of range" in error(np.ones((2, 2), np.float32), "--axis", "-3")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "int9"], "invalid choice"),
        (["--format", "ggml_q4_0", "--group", "4"], "groups and scales of its own"),
        (["--format", "nf4", "--asymmetric"], "--asymmetric takes int2 to int8, not nf4"),
        (["--format", "nf4", "--method", "hqq"], "--method hqq takes int2 to int8"),
        (["--format", "int4", "--data", "x"], "--method gptq and awq take --data"),
        (["--format", "int4", "--method", "awq"], "--method gptq and awq take --data"),
        (["--format", "int4", "--rules", "x=int9"], "is not REGEX=VALUE"),
        (["--format", "int4", "--rules", "x=ggml_q4_0:4"], "is not REGEX=VALUE"),
        (["--format", "int4", "--rules", "=no"], "is not REGEX=VALUE"),
    ],
)
def test_misuse_exits_with_2(source, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        main(["quantize", source, str(tmp_path / "q.safetensors"), *flags])
    assert message in capsys.readouterr().err


def test_a_file_that_lies_is_refused_by_leaf(source, tmp_path, capsys):
    target = tmp_path / "q.safetensors"
    assert main(["quantize", source, str(target), "--format", "int4", "--group", "12"]) == 0
    arrays, schema = load_packed(target)
    name = "block_0/up/kernel"

    def error(fields: object, *without: str, short: dict | None = None) -> str:
        kept = {key: array for key, array in arrays.items() if key not in without} | (short or {})
        save_safetensors(target, kept, metadata={SCHEMA: json.dumps(schema | {name: fields})})
        return said(capsys, "verify", source, target)

    assert "written by version 9" in error(schema[name] | {"version": 9})
    assert f"{name}.scale is missing" in error(schema[name], f"{name}.scale")
    assert f"{name}.codes: expected" in error(
        schema[name], f"{name}.codes", short={f"{name}.codes": arrays[f"{name}.codes"][1:]}
    )
    grid = {"kind": "lattice"}
    broken = schema[name] | {"format": schema[name]["format"] | {"grid": grid}}
    assert "the kind of grid 'lattice' is unknown" in error(broken)


def test_a_full_disk_leaves_the_old_file(source, capsys, monkeypatch):
    before = Path(source).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wlab.checkpoint.atomic.os.fsync", full)
    command = ["quantize", source, source, "--format", "int4", "--group", "12", "--force"]
    assert "No space left" in said(capsys, *command)
    assert Path(source).read_bytes() == before
    monkeypatch.undo()
    assert main(command) == 0  # onto itself: it is read while the new one is written
    assert load_packed(source)[1].keys() == set(KERNELS)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "why"),
    [
        ("model.layers.0.mlp.up_proj.weight", (4, 4), "float16", None),
        ("lm_head.weight", (4, 4), "bfloat16", None),
        ("layer1.0.conv1.weight", (8, 4, 3, 3), "float32", None),
        ("growten/kernel_of_kiln", (4, 4), "float32", None),
        ("fc.bias", (4,), "float32", "1-D"),
        ("scale", (), "float32", "a scalar"),
        ("codes", (4, 4), "int8", "not floats"),
        ("none", (0, 4), "float32", "empty"),
        ("model.embed_tokens.weight", (4, 4), "float32", EMBEDDING),
        ("transformer.wpe.weight", (4, 4), "float32", EMBEDDING),
        ("token_embd.weight", (4, 4), "float32", EMBEDDING),
        ("h.0.ln_1.weight", (1, 4), "float32", NORM),
        ("transformer.ln_f.weight", (4,), "float32", NORM),
        ("blk.0.attn_norm.weight", (4,), "float32", NORM),
        ("rms_ffn_weight", (6, 4), "float32", NORM),
    ],
)
def test_leaves_are_left_alone_for_a_reason(name, shape, dtype, why):
    size = int(np.prod(shape)) * 4
    array = Lazy(shape, dtype, size, lambda: np.zeros(shape))
    other = Lazy((2, 2), "float32", 16, lambda: np.zeros((2, 2)))
    flags = argparse.ArgumentParser()
    quantized_leaves.arguments(flags)
    args = flags.parse_args(["--format", "int8"])
    choice = quantized_leaves.chosen({name: array, "w": other}, args)[name]
    assert (choice if isinstance(choice, str) else None) == why


def test_a_packed_file_is_converted_as_the_values_that_its_codes_stand_for(
    source, tmp_path, capsys
):
    packed, plain = tmp_path / "q.safetensors", tmp_path / "plain.npz"
    run_json(capsys, "quantize", source, packed, "--format", "int4", "--group", "16")
    run_json(capsys, "convert", packed, plain)
    found = arrays_of(plain)
    assert set(found) == set(FLAT)
    for path in KERNELS:
        np.testing.assert_array_equal(found[path], nearest(FLAT[path], group=16))


@pytest.mark.parametrize(
    ("name", "shape", "flags", "axis"),
    [
        ("block/fc/kernel", (4, 8), "--group 2", -2),
        ("conv/kernel", (3, 3, 4, 8), "", -2),
        ("model.layers.0.mlp.up_proj.weight", (8, 4), "--group 2", -1),
        ("layers/0/weight", (8, 4), "", -1),
        ("layer1.conv1.weight", (8, 4, 3, 3), "", (1, 2, 3)),
        ("layer1.conv1.weight", (8, 4, 3, 3), "--axis 1 --group 2", 1),
        ("h.0.mlp.c_fc.weight", (4, 8), "", -2),
        ("h.0.attn.c_proj.weight", (4, 8), "", -2),
    ],
)
def test_inputs_are_found_by_the_name_of_the_leaf(name, shape, flags, axis):
    assert chosen_for(name, shape, flags).axis == axis


def test_groups_of_a_convolution_with_outputs_first_are_refused():
    with pytest.raises(ValueError, match=r"convolution whose inputs are all .*conv1\\.weight=int8"):
        chosen_for("layer1.conv1.weight", (8, 4, 3, 3), "--group 2")


def chosen_for(name: str, shape: tuple[int, ...], flags: str):
    parser = argparse.ArgumentParser()
    quantized_leaves.arguments(parser)
    args = parser.parse_args(["--format", "int4", *flags.split()])
    array = Lazy(shape, "float32", 4 * int(np.prod(shape)), lambda: np.zeros(shape))
    return quantized_leaves.chosen({name: array}, args)[name]
