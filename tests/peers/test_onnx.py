"""ONNX models that the onnx package wrote; `make test-peers` installs it."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wlab.checkpoint.formats.onnx import open_onnx

DTYPES = [
    *(np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128, ml_dtypes.bfloat16),
    *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4),
]


def values(dtype, shape=(3, 5)):
    numbers = np.random.default_rng(0).integers(-7 if np.dtype(dtype).kind != "u" else 0, 8, shape)
    return (numbers & 7 if dtype is ml_dtypes.uint4 else numbers).astype(dtype)


def model(*tensors, inputs=("x",)):
    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])

    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [*map(info, inputs)], [info("y")], list(tensors))
    return helper.make_model(graph, producer_name="a test", producer_version="1.0")


def typed(array, name):
    """The numbers in float_data, int32_data and the like, as `make_tensor` puts them."""
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, code, array.shape, array.reshape(-1).tolist())


@pytest.mark.parametrize("make", [numpy_helper.from_array, typed])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_dtype(tmp_path, dtype, make):
    array = values(dtype)
    onnx.save(model(make(array, "w")), tmp_path / "m.onnx")
    source = open_onnx(tmp_path / "m.onnx")
    found = source.arrays["w"].read()
    assert source.arrays["w"].dtype == found.dtype.name == array.dtype.name
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(
        found, numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0])
    )


def test_the_numbers_at_the_ends_of_their_range(tmp_path):
    arrays = {
        "int64": np.array([-(2**63), -1, 0, 2**63 - 1]),
        "uint64": np.array([0, 2**64 - 1], np.uint64),
        "int32": np.array([-(2**31), 2**31 - 1], np.int32),
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 2), np.float32),
    }
    onnx.save(model(*(typed(a, n) for n, a in arrays.items())), tmp_path / "m.onnx")
    source = open_onnx(tmp_path / "m.onnx")
    assert list(source.arrays) == list(arrays)
    for name, array in arrays.items():
        found = source.arrays[name].read()
        assert (found.shape, found.tobytes()) == (array.shape, array.tobytes())


def test_the_names_of_inputs_and_the_rest(tmp_path):
    made = model(numpy_helper.from_array(values(np.float32), "w"), inputs=("x", "w"))
    made.metadata_props.add(key="author", value="someone")
    onnx.save(made, tmp_path / "m.onnx")
    assert open_onnx(tmp_path / "m.onnx").metadata == {
        "inputs": ["x"],
        "outputs": ["y"],
        "operators": {"": made.opset_import[0].version},
        "producer": "a test 1.0",
        "properties": {"author": "someone"},
    }


def test_data_beside_the_model(tmp_path):
    arrays = {"a": values(np.float32, (40, 30)), "b": values(np.float64, (50, 20))}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(
        *(model(*tensors), tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    source = open_onnx(tmp_path / "m.onnx")
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.arrays[name].read(), array)
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"'a' .*'weights.bin' has 100 bytes"):
        open_onnx(tmp_path / "m.onnx")


def test_texts_are_passed_over_and_sparse_ones_refused(tmp_path):
    text = helper.make_tensor("t", TensorProto.STRING, [1], [b"x"])
    onnx.save(model(text, numpy_helper.from_array(values(np.int8), "w")), tmp_path / "m.onnx")
    assert list(open_onnx(tmp_path / "m.onnx").arrays) == ["w"]
    made = model()
    entries = numpy_helper.from_array(values(np.float32, (2,)), "s")
    indices = numpy_helper.from_array(np.array([0, 2]), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(entries, indices, [5]))
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="sparse initializers"):
        open_onnx(tmp_path / "m.onnx")
