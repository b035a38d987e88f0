"""Quantized weights of ONNX models: written and read, against bytes that are decoded by hand."""

from functools import cache

import jax
import ml_dtypes
import numpy as np
import pytest
from onnx_samples import floats, nested, tensor, varint, whole

from wlab.checkpoint.formats.onnx import open_onnx
from wlab.checkpoint.formats.onnx_qdq import QuantizedInitializer, is_qdq, load_onnx_qdq
from wlab.checkpoint.formats.onnx_qdq import dequantized as dequantized_by_numpy
from wlab.checkpoint.formats.onnx_qdq_writing import save_onnx_qdq
from wlab.checkpoint.formats.protobuf import fields
from wlab.quantization import dequantize, quantize
from wlab.quantization.formats import int3, int4, int6, int8
from wlab.quantization.onnx_parts import OnnxParts, from_onnx_parts, to_onnx_parts

FORMATS = {
    "int8": (int8(), (6, 5)),
    "int8 rows": (int8(axis=-1), (6, 5)),
    "int8 tensor": (int8(axis=None), (6, 5)),
    "int8 asymmetric": (int8(symmetric=False), (6, 5)),
    "int8 convolution": (int8(axis=(0, 1, 2)), (3, 3, 2, 4)),
    "int6 full": (int6(bound="full"), (6, 5)),
    "int4 groups": (int4(group_size=4), (10, 3)),
    "int4 asymmetric groups": (int4(group_size=2, axis=-1, symmetric=False), (3, 5)),
    "int4 float16": (int4(scale_dtype="float16"), (7, 3)),
    "int4 a stack": (int4(axis=1), (2, 6, 3)),
    "int3": (int3(symmetric=False, scale_dtype="bfloat16"), (7, 3)),
    "a vector": (int8(), (9,)),
    "a vector in groups": (int8(group_size=4), (9,)),
}


def array(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@cache
def quantized(name):
    format, shape = FORMATS[name]
    return jax.jit(quantize, static_argnames="format")(array(shape), format=format)


def plain(q):
    return np.asarray(jax.jit(dequantize)(q))


def saved(path, leaves):
    save_onnx_qdq(path, {n: QuantizedInitializer(*to_onnx_parts(q)) for n, q in leaves.items()})
    return path


def message(raw, begin=0, end=None):
    """The fields of a message by number, as bytes or whole numbers."""
    found = {}
    for field in fields(raw, begin, len(raw) if end is None else end):
        value = raw[field.begin : field.end] if field.kind == 2 else field.value
        found.setdefault(field.number, []).append(value)
    return found


def by_hand(path):
    """What each node gives, by the definition of the operator, from the bytes of the file."""
    graph = message(message(path.read_bytes())[7][0])
    arrays = {}
    for raw in graph[5]:
        made = message(raw)
        shape, raw = tuple(made.get(1, [])), np.frombuffer(made[9][0], np.uint8)
        code = made[2][0]
        if code in (21, 22):
            both = np.stack([raw % 16, raw // 16], axis=1).reshape(-1)[: int(np.prod(shape))]
            numbers = both.astype(int) - 16 * ((both > 7) & (code == 22))
        else:
            kinds = {1: np.float32, 2: np.uint8, 3: np.int8, 10: np.float16}
            numbers = raw.view(kinds.get(code, ml_dtypes.bfloat16))
        arrays[made[8][0].decode()] = numbers.reshape(shape)
    return {
        message(raw)[2][0].decode(): dequantized(message(raw), arrays) for raw in graph.get(1, [])
    }


def dequantized(node, arrays):
    assert node[4] == [b"DequantizeLinear"]
    attributes = {message(raw)[1][0]: message(raw)[3][0] for raw in node.get(5, [])}
    codes, scale, *zero = (arrays[raw.decode()] for raw in node[1])
    zero = zero[0] if zero else np.zeros_like(scale)
    axis, block = attributes.get(b"axis", 1), attributes.get(b"block_size", 0)
    if block:
        scale, zero = (
            np.repeat(x, block, axis).take(np.arange(codes.shape[axis]), axis)
            for x in (scale, zero)
        )
    elif scale.ndim:
        shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (codes.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)


def test_the_bytes_of_the_file_mean_what_the_leaves_mean(tmp_path):
    leaves = {name: quantized(name) for name in FORMATS}
    found = by_hand(saved(tmp_path / "m.onnx", leaves))
    assert list(found) == list(leaves)
    for name, q in leaves.items():
        np.testing.assert_array_equal(found[name], plain(q), err_msg=name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_leaf_that_is_read_is_the_one_that_was_written(tmp_path, name):
    q = quantized(name)
    loaded = load_onnx_qdq(saved(tmp_path / "m.onnx", {"w": q}))["w"]
    again = from_onnx_parts(OnnxParts(*loaded), "w")
    np.testing.assert_array_equal(plain(again), plain(q))
    np.testing.assert_array_equal(dequantized_by_numpy(loaded), plain(q))
    assert again.shape == q.shape and again.dtype == q.dtype
    if name in ("int8", "int8 rows", "int8 tensor", "int8 asymmetric", "int4 groups"):
        assert again.format == q.format
        jax.tree.map(np.testing.assert_array_equal, again, q)


def test_every_code_and_zero_point_of_other_models_is_read_exactly(tmp_path):
    codes = np.arange(-128, 128).astype(np.int8).reshape(2, 128)
    parts = {
        "signed": (codes, np.float32([0.5, 0.25]), np.int8([-128, 127]), 8, 0, 0),
        "one of one": (codes, np.float32([0.7]), np.int8([5]), 8, None, 0),
        "unsigned": (codes.view(np.uint8), np.float32([0.3]), None, 8, None, 0),
        "nibbles": (
            codes[:, :33] % 16 - 8,
            np.float16([[0.5]] * 2),
            np.int8([[3], [-8]]),
            4,
            -1,
            64,
        ),
    }
    weights = {name: QuantizedInitializer(*each) for name, each in parts.items()}
    save_onnx_qdq(tmp_path / "m.onnx", weights)
    found = load_onnx_qdq(tmp_path / "m.onnx")
    for name, (codes, scale, zero, _, axis, _) in parts.items():
        scale = scale[:, None] if axis == 0 else scale
        zero = np.zeros_like(scale) if zero is None else zero.reshape(scale.shape)
        shifted = codes.astype(np.float32) - zero.astype(np.float32)
        expected = (shifted * scale.astype(np.float32)).astype(scale.dtype)
        q = from_onnx_parts(OnnxParts(*found[name]), name)
        np.testing.assert_array_equal(plain(q), expected, err_msg=name)
        np.testing.assert_array_equal(dequantized_by_numpy(found[name]), expected, err_msg=name)


def test_other_arrays_are_initializers_and_parts_are_not_weights(tmp_path):
    q = quantized("int8")
    weights = {"bias": array((5,)), "w": QuantizedInitializer(*to_onnx_parts(q))}
    save_onnx_qdq(tmp_path / "m.onnx", weights)
    assert list(open_onnx(tmp_path / "m.onnx").arrays) == ["bias", "w.codes", "w.scale"]
    assert open_onnx(tmp_path / "m.onnx").metadata["outputs"] == ["w"]
    found = load_onnx_qdq(tmp_path / "m.onnx")
    assert sorted(found) == ["bias", "w"]
    np.testing.assert_array_equal(found["bias"], weights["bias"])


CODES = tensor("q", 3, (2, 3), nested(9, bytes(6)))
SCALE, ZERO = (
    tensor("s", 1, (3,), nested(9, floats(1, 2, 3))),
    tensor("z", 3, (3,), nested(9, b"abc")),
)


def model(
    *tensors, inputs=("q", "s", "z"), output="w", axis=None, block=None, operator="DequantizeLinear"
):
    node = b"".join(nested(1, name) for name in inputs) + nested(2, output) + nested(4, operator)
    for key, value in (("axis", axis), ("block_size", block)):
        node += b"" if value is None else nested(5, nested(1, key) + whole(3, value) + whole(20, 2))
    graph = nested(1, node) + nested(2, "g") + b"".join(nested(5, made) for made in tensors)
    return whole(1, 10) + nested(7, graph) + nested(8, whole(2, 21))


def test_a_model_written_by_hand_with_the_default_axis(tmp_path):
    (tmp_path / "m.onnx").write_bytes(model(CODES, SCALE, ZERO))
    found = load_onnx_qdq(tmp_path / "m.onnx")
    assert is_qdq(tmp_path / "m.onnx")
    assert list(found) == ["w"] and found["w"].axis == 1
    expected = np.tile(-np.float32([97, 98, 99]) * np.float32([1, 2, 3]), (2, 1))
    q = from_onnx_parts(OnnxParts(*found["w"]))
    np.testing.assert_array_equal(plain(q), expected)


def test_activations_and_other_operators_are_passed_over(tmp_path):
    for made in (
        model(SCALE, ZERO, inputs=("x", "s", "z")),
        model(CODES, SCALE, ZERO, operator="Add"),
    ):
        (tmp_path / "m.onnx").write_bytes(made)
        found = load_onnx_qdq(tmp_path / "m.onnx")
        assert not is_qdq(tmp_path / "m.onnx")
        assert set(found) == set(open_onnx(tmp_path / "m.onnx").arrays)


BAD = {
    "no scale": (model(CODES, inputs=("q",)), "its scale '' is no initializer"),
    "a scale elsewhere": (model(CODES, ZERO), "its scale 's' is no initializer"),
    "a zero point elsewhere": (model(CODES, SCALE), "its zero point 'z' is no initializer"),
    "an axis beyond": (model(CODES, SCALE, ZERO, axis=2), r"axis 2 is out of range .*\[2, 3\]"),
    "an axis before": (model(CODES, SCALE, ZERO, axis=-3), "axis -3 is out of range"),
    "another axis": (model(CODES, SCALE, ZERO, axis=0), r"take scales of \[2\], found \[3\]"),
    "blocks": (model(CODES, SCALE, ZERO, block=2), r"take scales of \[2, 2\], found \[3\]"),
    "negative blocks": (model(CODES, SCALE, ZERO, block=-2), "blocks of -2"),
    "other zero points": (
        model(CODES, SCALE, tensor("z", 2, (3,), nested(9, b"abc"))),
        r"must be int8\[3\], found uint8\[3\]",
    ),
    "no name": (model(CODES, SCALE, ZERO, output=""), "the codes 'q' has no output"),
    "the name of an array": (model(CODES, SCALE, ZERO, output="s"), "two weights .* 's'"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, raw, message):
    (tmp_path / "m.onnx").write_bytes(raw)
    with pytest.raises(ValueError, match=f"m.onnx has quantized weights .*{message}"):
        load_onnx_qdq(tmp_path / "m.onnx")


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path):
    good = QuantizedInitializer(np.zeros((2, 3), np.int8), np.float32(1), None, 8, None, 0)
    bad = {
        "found .4.": {"w": good._replace(scale=np.ones(4, np.float32), axis=1)},
        "beyond 4 bits": {"w": good._replace(codes=np.full((2, 3), 9, np.int8), bits=4)},
        "two arrays .* 'w.codes'": {"w": good, "w.codes": array((3,))},
        "'c' is int2": {"c": np.zeros(3, ml_dtypes.int2)},
    }
    for message, weights in bad.items():
        with pytest.raises(ValueError, match=f"save_onnx_qdq: .*{message}"):
            save_onnx_qdq(tmp_path / "m.onnx", weights)
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    raw = saved(tmp_path / "m.onnx", {"w": quantized("int8")}).read_bytes()
    assert varint(21) in raw
    for length in range(0, raw.rindex(nested(8, nested(1, "") + whole(2, 21))), 7):
        (tmp_path / "m.onnx").write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"m.onnx"):
            load_onnx_qdq(tmp_path / "m.onnx")
