"""GGUF files and blocks agree, bit for bit, with the `gguf` package of llama.cpp."""

import gguf
import ml_dtypes
import numpy as np
import pytest

from wlab.checkpoint.formats.gguf import open_gguf
from wlab.checkpoint.formats.gguf_blocks import DECODED, ENCODED, decode, encode
from wlab.checkpoint.formats.gguf_types import ENCODINGS
from wlab.checkpoint.formats.gguf_writing import save_gguf
from wlab.cli.main import main

TYPES = gguf.GGMLQuantizationType


def test_the_types_are_the_same():
    ours = {name: (kind.code, kind.size, kind.nbytes) for name, kind in ENCODINGS.items()}
    theirs = {t.name: (t.value, *gguf.GGML_QUANT_SIZES[t]) for t in TYPES}
    both = ours.keys() & theirs.keys()
    assert {name: ours[name] for name in both} == {name: theirs[name] for name in both}
    assert theirs.keys() - both <= {"Q8_1", "Q8_K"}  # of activations, never in a file


@pytest.mark.parametrize("encoding", DECODED)
def test_random_bytes_are_decoded_alike(encoding):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (37, 4 * ENCODINGS[encoding].nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(blocks, TYPES[encoding])
    np.testing.assert_array_equal(decode(blocks, encoding), theirs.astype(np.float32))


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1, 1e4])
@pytest.mark.parametrize("encoding", ENCODED)
def test_random_numbers_are_encoded_alike(encoding, scale):
    x = (np.random.default_rng(0).standard_normal((64, 1024)) * scale).astype(np.float32)
    x[::3] = np.round(x[::3] / np.float32(scale) * 4) * np.float32(scale / 4)
    theirs = gguf.quantize(x, TYPES[encoding]).view(np.uint8)
    np.testing.assert_array_equal(encode(x, encoding), theirs.reshape(len(x), -1))


def test_they_read_what_we_write(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 64)).astype(np.float32)
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.rope.freq_base": 1e4,
        "tokenizer.ggml.tokens": ["a", "b", "é"],
        "tokenizer.ggml.token_type": [1, 2, 3],
        "tokenizer.ggml.add_bos_token": False,
    }
    arrays = {"f32": x, "f16": x.astype(np.float16), "q8": x, "q4": x}
    path = tmp_path / "w.gguf"
    save_gguf(path, arrays, metadata=metadata, encodings={"q8": "Q8_0", "q4": "Q4_0"})
    theirs = gguf.GGUFReader(path)
    found = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in theirs.tensors}
    for name, lazy in open_gguf(path).arrays.items():
        np.testing.assert_array_equal(found[name], lazy.read())
    assert {key: theirs.fields[key].contents() for key in metadata} == metadata
    kinds = {key: theirs.fields[key].types[-1].name for key in metadata}
    assert kinds == {
        "general.architecture": "STRING",
        "llama.block_count": "UINT32",
        "llama.rope.freq_base": "FLOAT32",
        "tokenizer.ggml.tokens": "STRING",
        "tokenizer.ggml.token_type": "INT32",
        "tokenizer.ggml.add_bos_token": "BOOL",
    }


@pytest.mark.parametrize("encoding", ["Q4_K", "Q6_K"])
def test_they_read_the_k_quants_of_a_quantized_file(tmp_path, encoding):
    x = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    source, target = tmp_path / "w.gguf", tmp_path / "k.gguf"
    save_gguf(source, {"w": x}, metadata={"general.architecture": "llama"})
    argv = ["quantize", str(source), str(target), "--format", f"ggml_{encoding.lower()}"]
    assert main(argv) == 0
    (theirs,) = gguf.GGUFReader(target).tensors
    assert theirs.tensor_type == TYPES[encoding]
    found = gguf.dequantize(theirs.data, theirs.tensor_type)
    np.testing.assert_array_equal(found, open_gguf(target).arrays["w"].read())
    assert np.square(found - x).mean() < 0.01


def test_we_read_what_they_write(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 256)).astype(np.float32)
    arrays = {"f32": x, "f16": x.astype(np.float16), "i32": rng.integers(0, 9, 5).astype(np.int32)}
    quantized = {name: gguf.quantize(x, TYPES[name]) for name in ("Q4_1", "Q5_0", "Q8_0", "BF16")}
    path = tmp_path / "w.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.5, -1.0])
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    for name, blocks in quantized.items():
        writer.add_tensor(name, blocks, raw_dtype=TYPES[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    source = open_gguf(path)
    assert source.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.scores": [0.5, -1.0],
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.arrays[name].read(), array, strict=True)
    for name in ("Q4_1", "Q5_0", "Q8_0"):
        np.testing.assert_array_equal(source.arrays[name].blocks(), quantized[name])
        theirs = gguf.dequantize(quantized[name], TYPES[name])
        np.testing.assert_array_equal(source.arrays[name].read(), theirs)
    np.testing.assert_array_equal(source.arrays["BF16"].read(), x.astype(ml_dtypes.bfloat16))
