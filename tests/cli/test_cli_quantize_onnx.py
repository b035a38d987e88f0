"""`wlab quantize` to an ONNX model, and what reads it."""

import json

import numpy as np
import pytest

from wlab.checkpoint import save_safetensors
from wlab.checkpoint.formats.onnx_qdq import dequantized, load_onnx_qdq
from wlab.cli import quantized_files
from wlab.cli.main import main

W = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", {"fc/kernel": W, "fc/bias": W[0]})
    return str(tmp_path / "w.safetensors")


def test_the_model_holds_the_nearest_codes_and_is_served_and_not_quantized_again(
    source, tmp_path, capsys
):
    target = tmp_path / "q.onnx"
    argv = ["quantize", source, str(target), "--format", "int4", "--group", "4", "--json"]
    assert main(argv) == 0
    told = json.loads(capsys.readouterr().out)
    (leaf,) = told["leaves"]
    assert leaf["disk"] == 32 // 2 + 2 * 4 * 4
    found = load_onnx_qdq(target)
    np.testing.assert_array_equal(found["fc/bias"], W[0])
    blocks = W.reshape(2, 4, 4)
    scale = (np.abs(blocks).max(1) / np.float32(7)).astype(np.float16).astype(np.float32)
    expected = np.clip(np.rint(blocks / scale[:, None]), -7, 7) * scale[:, None]
    np.testing.assert_allclose(dequantized(found["fc/kernel"]), expected.reshape(8, 4), rtol=1e-3)
    served = quantized_files.served(target).arrays
    assert list(served) == ["fc/kernel", "fc/bias"]
    assert (served["fc/kernel"].shape, served["fc/kernel"].encoding) == ((8, 4), "int4")
    np.testing.assert_array_equal(served["fc/kernel"].read(), dequantized(found["fc/kernel"]))
    with pytest.raises(ValueError, match=r"q.onnx is quantized already"):
        quantized_files.opened(target)


def test_formats_that_onnx_lacks_are_refused_by_leaf_and_leave_no_file(source, tmp_path, capsys):
    target = tmp_path / "q.onnx"
    assert main(["quantize", source, str(target), "--format", "nf4"]) == 1
    assert "leaf 'fc/kernel' is nf4" in capsys.readouterr().err
    assert not target.exists()


def test_a_dry_run_measures_and_writes_nothing(source, tmp_path, capsys):
    argv = ["quantize", source, str(tmp_path / "q.onnx"), "--format", "int4", "--group", "4"]
    argv += ["--dry-run", "--json"]
    assert main(argv) == 0
    (leaf,) = json.loads(capsys.readouterr().out)["leaves"]
    assert leaf["disk"] == 32 // 2 + 2 * 4 * 4 and leaf["sqnr_db"] > 15
    assert not (tmp_path / "q.onnx").exists()
