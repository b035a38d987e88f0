"""Quantized weights of ONNX models against the onnx package; `make test-peers` installs it."""

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from wlab.checkpoint.formats.onnx_qdq import QuantizedInitializer, load_onnx_qdq
from wlab.checkpoint.formats.onnx_qdq_writing import save_onnx_qdq
from wlab.quantization import dequantize, int3, int4, int8, quantize
from wlab.quantization.onnx_parts import OnnxParts, from_onnx_parts, to_onnx_parts

FORMATS = {
    "int8": (int8(), (6, 5)),
    "int8 rows": (int8(axis=-1), (6, 5)),
    "int8 tensor": (int8(axis=None), (6, 5)),
    "int8 asymmetric": (int8(symmetric=False), (6, 5)),
    "int8 convolution": (int8(axis=(0, 1, 2)), (3, 3, 2, 4)),
    "int4 groups": (int4(group_size=4), (8, 3)),
    "int4 a short last group": (int4(group_size=4), (10, 3)),
    "int4 asymmetric": (int4(symmetric=False, axis=-1), (3, 5)),
    "int3": (int3(scale_dtype="float16"), (7, 3)),
}


def plain(q):
    return np.asarray(jax.jit(dequantize)(q))


@pytest.mark.parametrize("name", FORMATS)
def test_onnx_evaluates_what_is_written_to_the_same_weights(tmp_path, name):
    format, shape = FORMATS[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    q = jax.jit(quantize, static_argnums=1)(x, format)
    weights = {"w": QuantizedInitializer(*to_onnx_parts(q)), "bias": x[0]}
    save_onnx_qdq(tmp_path / "m.onnx", weights)
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(["w"], {})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, plain(q))


@pytest.mark.parametrize(
    ("codes", "scale", "zero", "attributes"),
    [
        (np.int8, (), None, {}),
        (np.uint8, (6,), np.uint8, {"axis": 0}),
        (np.int8, (4,), np.int8, {}),
        (TensorProto.INT4, (6, 2), TensorProto.INT4, {"axis": -1, "block_size": 2}),
        (TensorProto.UINT4, (4,), TensorProto.UINT4, {"axis": 1}),
    ],
)
def test_what_onnx_wrote_is_read_as_it_evaluates_it(tmp_path, codes, scale, zero, attributes):
    rng = np.random.default_rng(0)

    def whole(name, kind, shape):
        numbers = rng.integers(0, 8, shape)
        if isinstance(kind, int):
            return helper.make_tensor(name, kind, shape, numbers.reshape(-1))
        return numpy_helper.from_array(numbers.astype(kind), name)

    parts = [whole("q", codes, (6, 4))]
    parts += [numpy_helper.from_array(rng.random(scale, np.float32), "s")]
    parts += [] if zero is None else [whole("z", zero, scale)]
    names = [part.name for part in parts]
    node = helper.make_node("DequantizeLinear", names, ["w"], **attributes)
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 4])
    graph = helper.make_graph([node], "g", [], [output], parts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "m.onnx")
    (expected,) = ReferenceEvaluator(model).run(["w"], {})
    found = from_onnx_parts(OnnxParts(*load_onnx_qdq(tmp_path / "m.onnx")["w"]), "w")
    np.testing.assert_array_equal(plain(found), expected)
