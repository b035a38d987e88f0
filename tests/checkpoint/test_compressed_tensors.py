"""compressed-tensors' layout, against bits that were written down and a twin by loops."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from wlab import quantization
from wlab.checkpoint.formats.compressed_tensors import Compressed, Scheme, from_parts, pack, parts
from wlab.checkpoint.formats.compressed_tensors import unpack as unpack_words
from wlab.checkpoint.formats.compressed_tensors_config import quantization_config, scheme_of
from wlab.checkpoint.formats.compressed_tensors_files import (
    load_compressed_tensors,
    save_compressed_tensors,
)
from wlab.quantization import Format, QTensor, presets
from wlab.quantization.files import planned_parts
from wlab.quantization.rows import from_rows, to_rows

W = "model.layers.0.mlp.up_proj.weight"


def by_loops(codes: np.ndarray, bits: int) -> np.ndarray:
    """Each row one whole number, code i at bit i · bits, cut into words."""
    rows = []
    for row in codes.tolist():
        number = sum((code + 2 ** (bits - 1)) << (i * bits) for i, code in enumerate(row))
        words = -(-len(row) * bits // 32)
        rows.append([number >> (32 * w) & 0xFFFFFFFF for w in range(words)])
    return np.array(rows, np.uint32).view(np.int32)


def weight(scheme: Scheme, shape: tuple[int, int] = (6, 40), dtype: str = "float16") -> Compressed:
    rng = np.random.default_rng(scheme.bits)
    half = 2 ** (scheme.bits - 1)
    scales = scheme.scale_shape(shape)
    codes = rng.integers(-half, half, shape).astype(np.int8)
    if scheme.floats:
        codes = np.where(codes.view(np.uint8) & 127 == 127, 0, codes).view("float8_e4m3fn")
    zero = None if scheme.symmetric else rng.integers(-half, half, scales).astype(np.int8)
    return Compressed(codes, rng.uniform(0.01, 1, scales).astype(dtype), zero, scheme)


SCHEMES = {
    "int4 groups": Scheme("pack-quantized", 4, True, "group", 8),
    "int4 groups, zero points": Scheme("pack-quantized", 4, False, "group", 20),
    "int4 channels": Scheme("pack-quantized", 4),
    "int3 channels, zero points": Scheme("pack-quantized", 3, False),
    "int8 groups": Scheme("pack-quantized", 8, True, "group", 40),
    "int4 tensor, zero points": Scheme("pack-quantized", 4, False, "tensor"),
    "int8 as it is": Scheme("int-quantized", 8),
    "int8 as it is, zero points": Scheme("int-quantized", 8, False),
    "int8 tensor": Scheme("int-quantized", 8, True, "tensor"),
    "fp8 channels": Scheme("float-quantized", 8),
    "fp8 tensor": Scheme("float-quantized", 8, True, "tensor"),
}


def assert_same(found: Compressed, wanted: Compressed) -> None:
    assert found.scheme == wanted.scheme
    for one, other in zip(
        (found.codes, found.scale, found.zero_point),
        (wanted.codes, wanted.scale, wanted.zero_point),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.tobytes() == other.tobytes()


def test_codes_are_offset_and_fill_words_from_the_lowest_bit():
    codes = np.array([[-8, -7, -6, -5, -4, -3, -2, 7, 0]], np.int8)
    assert [hex(word & 0xFFFFFFFF) for word in pack(codes, 4)[0].tolist()] == ["0xf6543210", "0x8"]


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_is_that_of_a_twin_and_comes_back(bits):
    rng = np.random.default_rng(bits)
    for n in (1, 31, 32, 33, 70):
        codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, n)).astype(np.int8)
        packed = pack(codes, bits)
        np.testing.assert_array_equal(packed, by_loops(codes, bits))
        np.testing.assert_array_equal(unpack_words(packed, bits, n), codes)


def test_a_packed_weight_has_the_documented_arrays():
    scheme = SCHEMES["int4 groups, zero points"]
    made = parts(W, weight(scheme))
    shapes = {name.removeprefix(W): (a.dtype.name, a.shape) for name, a in made.items()}
    assert shapes == {
        "_packed": ("int32", (6, 5)),
        "_shape": ("int64", (2,)),
        "_scale": ("float16", (6, 2)),
        "_zero_point": ("int32", (1, 2)),  # along the outputs: 6 · 4 bits
    }
    assert made[f"{W}_shape"].tolist() == [6, 40]
    zero = weight(scheme).zero_point
    np.testing.assert_array_equal(made[f"{W}_zero_point"], by_loops(zero.T, 4).T)


def test_a_folder_comes_back_bit_for_bit_and_any_reader_reads_its_arrays(tmp_path):
    weights = {f"layers.{i}.weight": weight(s) for i, s in enumerate(SCHEMES.values())}
    plain = {"norm.weight": np.ones(3, np.float32), "embed.weight": np.ones((4, 2), np.float16)}
    save_compressed_tensors(tmp_path / "m", {**weights, **plain}, config={"model_type": "llama"})
    found = load_compressed_tensors(tmp_path / "m")
    assert set(found) == {*weights, *plain}
    for name, wanted in weights.items():
        assert_same(found[name], wanted)
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name], array)
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["model_type"] == "llama"
    stated = config["quantization_config"]
    assert (stated["quant_method"], stated["format"]) == ("compressed-tensors", "mixed-precision")
    assert stated["config_groups"]["group_0"]["targets"] == ["layers.0"]
    with (tmp_path / "m/model.safetensors").open("rb") as file:
        theirs = safetensors.deserialize(file.read())
    kinds = {name: fields["dtype"] for name, fields in theirs}
    assert kinds["layers.0.weight_packed"] == "I32"
    assert kinds["layers.9.weight"] == "F8_E4M3"


def test_a_config_finds_the_scheme_by_name_then_regex_then_class():
    def group(*targets: str, bits: int) -> dict:
        scheme = Scheme("pack-quantized", bits)
        stated = quantization_config({"x.weight": scheme})["config_groups"]["group_0"]
        return stated | {"targets": list(targets)}

    groups = {
        "a": group("Linear", bits=8),
        "b": group("re:.*down.*", bits=6),
        "c": group("a.down", bits=4),
    }
    config = {"quant_method": "compressed-tensors", "config_groups": groups}
    bits = {name: scheme_of(name, config).bits for name in ("a.down.weight", "b.down.weight", "up")}
    assert bits == {"a.down.weight": 4, "b.down.weight": 6, "up": 8}
    del groups["a"]
    with pytest.raises(ValueError, match="'up' is quantized, and no group"):
        scheme_of("up", config)
    groups["b"]["weights"] |= {"actorder": "group"}
    with pytest.raises(ValueError, match=r"'b.down.weight': its scheme .* inputs are reordered"):
        scheme_of("b.down.weight", config)
    groups["b"]["weights"] |= {"actorder": None, "num_bits": 4.0}
    with pytest.raises(ValueError, match=r"num_bits 4.0"):
        scheme_of("b.down.weight", config)
    groups["b"]["format"] = "nvfp4-pack-quantized"
    with pytest.raises(ValueError, match="'nvfp4-pack-quantized' is not one of pack-quantized"):
        scheme_of("b.down.weight", config)
    with pytest.raises(ValueError, match="of 'gptq', not of 'compressed-tensors'"):
        scheme_of("up", {"quant_method": "gptq"})


FORMATS = {
    "int4, group 8": quantization.int4(group_size=8, scale_dtype="float16"),
    "int4, zero points": quantization.int4(symmetric=False, group_size=20),
    "int3, outputs": quantization.int3(scale_dtype="bfloat16"),
    "int8, tensor": quantization.int8(axis=None),
    "int8, half": presets.qwix_int8,
    "fp8": presets.fp8_e4m3(scale_dtype="float16"),
}


@pytest.mark.parametrize(
    ("name", "axis"), [*((name, -2) for name in FORMATS), ("int4, zero points", -1), ("fp8", -1)]
)
def test_a_quantized_kernel_becomes_rows_of_the_same_values(name, axis):
    format: Format = FORMATS[name]
    format = format if format.axis is None else replace(format, axis=axis)
    x = jax.random.normal(jax.random.key(0), (40, 40))
    q = jax.jit(quantization.quantize, static_argnames="format")(x, format)
    turned = axis == -2
    rows = to_rows(q, "w", transposed=turned)
    scale, zero = (
        0 if x is None else np.repeat(x, 40 // x.shape[-1], -1).astype(np.float32)
        for x in (rows.scale, rows.zero_point)
    )
    values = (rows.codes.astype(np.float32) - zero) * scale
    dequantize = jax.jit(quantization.dequantize)
    np.testing.assert_array_equal(values.T if turned else values, dequantize(q))
    back = from_rows(rows, transposed=turned)
    bound = {"half": "full"}.get(getattr(format.grid, "bound", ""))
    if bound is not None and rows.codes.min() == -128:
        format = replace(format, grid=replace(format.grid, bound=bound))
    elif bound is not None:
        format = replace(format, grid=replace(format.grid, bound="qmax"))
    assert back.format == format
    np.testing.assert_array_equal(back.codes, q.codes)
    np.testing.assert_array_equal(back.scale, q.scale)


def test_what_rows_cannot_hold_is_refused_by_leaf():

    def zeros(format: Format, *shape: int) -> QTensor:
        made = {name: jnp.zeros(*part) for name, part in planned_parts(format, shape).items()}
        none = dict.fromkeys(("scale", "zero_point", "outer"))
        return QTensor(**none | made, format=format, length=shape[-1], dtype="float32")

    for format in (presets.nf4(), presets.ggml_q4_1, presets.ocp_mxfp4, presets.nvfp4):
        with pytest.raises(ValueError, match=r"'up' of \[32, 32\] is .*; rows are of"):
            to_rows(zeros(format, 32, 32), "'up'")
    with pytest.raises(ValueError, match=r"rows are of matrices"):
        to_rows(zeros(quantization.int8(), 32))
    with pytest.raises(ValueError, match=r"'up' has one scale: say by `transposed`"):
        to_rows(zeros(quantization.int8(axis=None), 32, 32), "'up'")


def test_weights_that_are_not_what_their_scheme_says_are_refused_by_name():
    good = weight(SCHEMES["int4 groups"])

    def refused(match: str, name: str = W, **changed: object) -> None:
        with pytest.raises(ValueError, match=match):
            parts(name, replace(good, **changed))

    refused("40 inputs leave a short last group of 12", scheme=replace(good.scheme, group_size=12))
    refused(r"up_proj.weight_scale: expected floats of \[6, 5\]", scale=good.scale[:, :4])
    refused("codes cannot be int16", codes=good.codes.astype(np.int16))
    refused("holds codes beyond 4 bits", codes=good.codes * np.int8(2))
    refused("zero points go with", zero_point=np.zeros((6, 5), np.int8))
    refused("no matrix named", name="up.kernel")
    made = parts(W, good)
    for name in made:
        with pytest.raises(ValueError, match=f"'{name}' is missing: pack-quantized takes"):
            from_parts(W, {n: a for n, a in made.items() if n != name}, good.scheme)
    with pytest.raises(ValueError, match=r"expected int32\[6, 5\], found int32\[6, 4\]"):
        from_parts(W, made | {f"{W}_packed": made[f"{W}_packed"][:, :4]}, good.scheme)
    with pytest.raises(ValueError, match="not the shape of a matrix"):
        from_parts(W, made | {f"{W}_shape": np.array([6])}, good.scheme)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 9}, "has 1 to 8 bits"),
        ({"format": "marlin-24"}, "format must be in"),
        ({"format": "float-quantized", "bits": 4}, "floats 8"),
        ({"format": "float-quantized", "bits": 8, "symmetric": False}, "no zero points"),
        ({"strategy": "group"}, "a group_size goes with"),
        ({"group_size": 8}, "a group_size goes with"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Scheme(**{"format": "pack-quantized", "bits": 4} | fields)


def test_a_folder_without_config_or_weights_is_refused_and_a_bad_weight_writes_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of model"):
        load_compressed_tensors(tmp_path)
    bad = {W: replace(weight(SCHEMES["int8 as it is"]), scale=np.ones(3, np.float32))}
    with pytest.raises(ValueError, match="weight_scale: expected floats"):
        save_compressed_tensors(tmp_path / "m", bad, config={})
    assert not (tmp_path / "m").exists()
    good = {W: weight(SCHEMES["int8 as it is"])}
    with pytest.raises(ValueError, match="two arrays have the name"):
        save_compressed_tensors(tmp_path / "m", good | {f"{W}_scale": np.ones(2)}, config={})
    save_compressed_tensors(tmp_path / "m", good, config={})
    (tmp_path / "m/config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no quantization_config"):
        load_compressed_tensors(tmp_path / "m")
