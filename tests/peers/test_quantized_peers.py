"""Quantized files of ours in compressed-tensors and llama.cpp's reader, and theirs in ours."""

import json
from dataclasses import replace

import gguf
import jax
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
)
from safetensors.torch import load_file, save_file

from wlab import quantization
from wlab.checkpoint import Lazy, save_gguf
from wlab.checkpoint.formats.compressed_tensors import Compressed, Scheme, pack
from wlab.checkpoint.formats.compressed_tensors_config import quantization_config
from wlab.checkpoint.formats.compressed_tensors_files import (
    load_compressed_tensors,
    save_compressed_tensors,
)
from wlab.quantization import presets
from wlab.quantization.files import planned_parts
from wlab.quantization.gguf_blocks import gguf_blocks, gguf_encoding
from wlab.quantization.rows import from_rows, to_rows

SCHEMES = {
    "int4 groups": Scheme("pack-quantized", 4, True, "group", 32),
    "int4 groups, zero points": Scheme("pack-quantized", 4, False, "group", 16),
    "int4 channels, zero points": Scheme("pack-quantized", 4, False),
    "int8 groups": Scheme("pack-quantized", 8, True, "group", 32),
    "int8 channels": Scheme("int-quantized", 8),
    "int8 channels, zero points": Scheme("int-quantized", 8, False),
    "fp8 channels": Scheme("float-quantized", 8),
    "fp8 tensor": Scheme("float-quantized", 8, True, "tensor"),
}
X = np.random.default_rng(0).standard_normal((96, 40)).astype(np.float32)  # inputs, outputs


def quantized(scheme: Scheme, scale_dtype: str = "float32") -> quantization.QTensor:
    axis = None if scheme.strategy == "tensor" else -2
    options = {"axis": axis, "group_size": scheme.group_size, "scale_dtype": scale_dtype}
    if scheme.floats:
        format = presets.fp8_e4m3(**options)
    else:
        format = quantization.integer(scheme.bits, symmetric=scheme.symmetric, **options)
    return jax.jit(quantization.quantize, static_argnames="format")(X, format)


def theirs(scheme: Scheme) -> QuantizationScheme:
    stated = quantization_config({"w.weight": scheme})["config_groups"]["group_0"]["weights"]
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**stated))


def local(arrays: dict, name: str) -> dict:
    return {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}


@pytest.mark.parametrize("bits", range(1, 9))
def test_words_are_packed_alike(bits):
    half = 2 ** (bits - 1)
    codes = np.random.default_rng(bits).integers(-half, half, (5, 70)).astype(np.int8)
    wanted = pack_to_int32(torch.from_numpy(codes), bits).numpy()
    np.testing.assert_array_equal(pack(codes, bits), wanted)


@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
def test_they_read_what_we_write(tmp_path, scale_dtype):
    kernels = {name: quantized(scheme, scale_dtype) for name, scheme in SCHEMES.items()}
    weights = {
        f"{name}.weight": Compressed(*to_rows(kernels[name], transposed=True)[:3], scheme)
        for name, scheme in SCHEMES.items()
    }
    save_compressed_tensors(tmp_path, weights, config={})
    stated = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(stated)
    assert len(config.config_groups) == len(SCHEMES)
    arrays = load_file(tmp_path / "model.safetensors")
    for group in config.config_groups.values():
        (name,) = group.targets
        reader = BaseCompressor.get_value_from_registry(group.format)
        found = reader.decompress(local(arrays, name), group)["weight"]
        wanted = np.asarray(jax.jit(quantization.dequantize)(kernels[name])).T
        wanted = torch.from_numpy(wanted.copy()).to(getattr(torch, scale_dtype))
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", SCHEMES)
def test_we_read_what_they_write(tmp_path, name):
    scheme, args = SCHEMES[name], theirs(SCHEMES[name])
    rows = to_rows(quantized(scheme), transposed=True)
    state = {"weight": torch.from_numpy(X.T.copy()), "weight_scale": torch.from_numpy(rows.scale)}
    if rows.zero_point is not None:
        state["weight_zero_point"] = torch.from_numpy(rows.zero_point)
    writer = BaseCompressor.get_value_from_registry(scheme.format)
    written = writer.compress(state, args)
    save_file({f"a.{k}": v for k, v in written.items()}, tmp_path / "model.safetensors")
    group = args.model_dump() | {"format": scheme.format}
    config = QuantizationConfig(config_groups={"group_0": group}, format=scheme.format)
    text = json.dumps({"quantization_config": json.loads(config.model_dump_json())})
    (tmp_path / "config.json").write_text(text)
    found = load_compressed_tensors(tmp_path)["a.weight"]
    assert found.scheme == scheme
    # They divide where we multiply by the reciprocal: near ties may differ.
    assert np.mean(found.codes.view(np.int8) != rows.codes.view(np.int8)) < 1e-3
    q = from_rows(rows._replace(codes=found.codes, scale=found.scale), transposed=True)
    wanted = writer.decompress(written, args)["weight"].numpy()
    np.testing.assert_array_equal(np.asarray(jax.jit(quantization.dequantize)(q)).T, wanted)


GGML = [getattr(presets, f"ggml_{n}") for n in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")]


def test_llama_cpp_s_reader_finds_the_values_that_our_codes_stand_for(tmp_path):
    quantize = jax.jit(quantization.quantize, static_argnames="format")
    kernels = {str(gguf_encoding(f)): quantize(X, replace(f, axis=-2)) for f in GGML}

    def lazy(encoding: str, q: quantization.QTensor) -> Lazy:
        blocks = gguf_blocks(q)
        shape = (X.shape[1], X.shape[0])
        return Lazy(shape, "float32", blocks.nbytes, lambda: blocks, encoding, lambda: blocks)

    arrays = {f"{e}.weight": lazy(e, q) for e, q in kernels.items()}
    metadata = {"general.architecture": "llama"}
    save_gguf(tmp_path / "w.gguf", {**arrays, "norm": X[0]}, metadata=metadata)
    read = {t.name: t for t in gguf.GGUFReader(tmp_path / "w.gguf").tensors}
    for encoding, q in kernels.items():
        tensor = read[f"{encoding}.weight"]
        assert tensor.tensor_type.name == encoding
        assert tensor.shape.tolist() == [*X.shape]  # theirs: the fastest axis, the inputs, first
        assert tensor.n_bytes == sum(
            np.prod(shape) * np.dtype(dtype).itemsize
            for shape, dtype in planned_parts(q.format, X.shape).values()
        )
        wanted = np.asarray(jax.jit(quantization.dequantize)(q)).T
        np.testing.assert_array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), wanted)
