"""Pickles of NumPy and JAX arrays give what the standard unpickler gives."""

import collections
import pickle

import flax.core
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from torch_samples import call, program, several, text, whole, wholes

from wlab.checkpoint.formats.numpy_pickles import open_pickle

DTYPES = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64"]
DTYPES += [">f4", ">i8", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def array(dtype, shape=(3, 5)):
    return np.random.default_rng(0).integers(0, 2, shape).astype(dtype)


def dumped(path, value, protocol=None):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).str)
def test_every_dtype_order_and_shape(tmp_path, dtype, protocol):
    whole = array(dtype)
    arrays = {
        "c": whole,
        "fortran": np.asfortranarray(whole),
        "transposed": whole.T,
        "strided": whole[::2, ::-2],
        "scalar": array(dtype, ()),
        "empty": array(dtype, (0, 3)),
        "long": array(dtype, (9, 40)),
    }
    source = open_pickle(dumped(tmp_path / "w.pkl", arrays, protocol))
    assert list(source.arrays) == list(arrays)
    for name, expected in arrays.items():
        lazy = source.arrays[name]
        found = lazy.read()
        assert lazy.dtype == found.dtype.name == np.dtype(dtype).name
        assert found.dtype.isnative and lazy.shape == found.shape == expected.shape
        assert found.tobytes() == expected.astype(found.dtype).tobytes()
        assert lazy.nbytes == expected.nbytes


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_nested_tree_and_what_is_beside_the_arrays(tmp_path, protocol):
    tree = {
        "params": {"Conv_0": {"kernel": array("float32"), "bias": jnp.ones(3, jnp.bfloat16)}},
        "stack": [array("int8"), (array("bool"), 2.5)],
        "frozen": flax.core.FrozenDict({"scale": array("float16")}),
        "ordered": collections.OrderedDict(b=array("int32"), note="x"),
        3: array("uint8"),
        "step": np.int64(7),
        "loss": np.float32(0.5),
        "dtype": np.dtype("float32"),
        "raw": b"\xff",
        "nothing": None,
    }
    source = open_pickle(dumped(tmp_path / "w.pkl", tree, protocol))
    assert {name: lazy.dtype for name, lazy in source.arrays.items()} == {
        "params/Conv_0/kernel": "float32",
        "params/Conv_0/bias": "bfloat16",
        "stack/0": "int8",
        "stack/1/0": "bool",
        "frozen/scale": "float16",
        "ordered/b": "int32",
        "3": "uint8",
    }
    assert source.metadata == {
        "stack": {"1": {"1": 2.5}},
        "ordered": {"note": "x"},
        "step": 7,
        "loss": 0.5,
        "dtype": "float32",
        "raw": b"\xff",
        "nothing": None,
    }
    np.testing.assert_array_equal(source.arrays["params/Conv_0/bias"].read(), np.ones(3))


def test_the_names_of_numpy_1(tmp_path):
    raw = pickle.dumps({"w": array("float32"), "s": np.float64(2)}, 3)
    old = raw.replace(b"numpy._core.", b"numpy.core.")
    assert old != raw
    (tmp_path / "w.pkl").write_bytes(old)
    source = open_pickle(tmp_path / "w.pkl")
    np.testing.assert_array_equal(source.arrays["w"].read(), array("float32"))
    assert source.metadata == {"s": 2.0}


def test_an_array_is_read_from_the_file_when_it_is_asked_for(tmp_path):
    path = dumped(tmp_path / "w.pkl", {"w": np.zeros(100, np.uint8)}, 4)
    lazy = open_pickle(path).arrays["w"]
    path.write_bytes(path.read_bytes().replace(bytes(100), b"\1" * 100))
    assert lazy.read().all()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"w.pkl has become shorter"):
        lazy.read()


def test_a_lone_array_and_a_lone_value(tmp_path):
    assert list(open_pickle(dumped(tmp_path / "w.pkl", array("int8"))).arrays) == ["array"]
    assert open_pickle(dumped(tmp_path / "w.pkl", 3)).metadata == {"value": 3}


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_pickle(tmp_path / "w.pkl")


def dtype(code="f4", order="<"):
    state = several(whole(3), text(order), b"NNN", *map(whole, (-1, -1, 0)))
    return call("numpy", "dtype", text(code), b"\x89", b"\x88") + state + b"b"


def ndarray(shape, raw=bytes(8), kind=None, fortran=b"\x89"):
    made = call("numpy.core.multiarray", "_reconstruct", call("numpy", "dtype", text("x")))
    data = b"C" + bytes([len(raw)]) + raw
    return made + several(whole(1), shape, kind or dtype(), fortran, data) + b"b"


HOSTILE = {
    "a negative size": (ndarray(wholes(-2)), "whole numbers from 0"),
    "a size that is true": (ndarray(several(b"\x88", whole(2))), "whole numbers from 0"),
    "a size that is text": (ndarray(several(text("2"))), "whole numbers from 0"),
    "too few bytes": (ndarray(wholes(3)), r"float32\[3\], which is not its 8 bytes"),
    "too many bytes": (ndarray(wholes(1)), r"float32\[1\], which is not its 8 bytes"),
    "sizes that overflow": (ndarray(wholes(2**62, 4)), "more than 2"),
    "sizes whose product wraps": (ndarray(wholes(2**33, 2**33)), "more than 2"),
    "nothing times too much": (ndarray(wholes(0, 2**40, 2**40), b""), "more than 2"),
    "too many axes": (ndarray(wholes(*[1] * 33)), "33 axes"),
    "an unknown dtype": (ndarray(wholes(2), kind=dtype("f3")), "'f3'"),
    "a long double": (ndarray(wholes(2), kind=dtype("f16")), "float128'|longdouble'"),
    "a dtype of objects": (ndarray(wholes(1), kind=dtype("O8")), "not one of numbers"),
    "a dtype of text": (ndarray(wholes(1), kind=dtype("U2")), "not one of numbers"),
    "a record": (ndarray(wholes(1), kind=dtype("f4,f4")), "not understood|not one of|malformed"),
    "no dtype": (ndarray(wholes(2), kind=b"N"), "not a NumPy dtype"),
    "an unknown byte order": (ndarray(wholes(2), kind=dtype(order="?")), "byte order"),
    "no state": (call("numpy.core.multiarray", "_reconstruct"), "malformed"),
    "a scalar of two": (
        call("numpy.core.multiarray", "scalar", dtype(), b"C\x08" + bytes(8)),
        "not its 8 bytes",
    ),
    "bytes that are none": (
        call("numpy.core.numeric", "_frombuffer", b"N", dtype(), wholes(2), text("C")),
        "not bytes",
    ),
    "an unknown order": (
        call("numpy.core.numeric", "_frombuffer", b"C\4abcd", dtype(), wholes(1), text("K")),
        "which is not its 4 bytes",
    ),
    "another rebuilder of JAX": (
        call("jax._src.array", "_reconstruct_array", text("f"), b")", b")", b"}"),
        "another function",
    ),
}


@pytest.mark.parametrize(("value", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_array_is_refused_by_name(tmp_path, value, message):
    (tmp_path / "w.pkl").write_bytes(program(b"}" + text("evil") + value + b"s"))
    with pytest.raises(ValueError, match=rf"w.pkl .*'evil'.*({message})"):
        open_pickle(tmp_path / "w.pkl")


def test_text_that_is_no_bytes_is_refused_when_it_is_read(tmp_path):
    raw = call("_codecs", "encode", text("abc\u0416"), text("latin1"))
    made = call("numpy.core.numeric", "_frombuffer", raw, dtype(), wholes(1), text("C"))
    (tmp_path / "w.pkl").write_bytes(program(b"}" + text("evil") + made + b"s"))
    with pytest.raises(ValueError, match=r"w.pkl: the text of 'evil' stands for no bytes"):
        open_pickle(tmp_path / "w.pkl").arrays["evil"].read()


@pytest.mark.parametrize("value", [np.array([{}, None]), np.array(["a"]), np.zeros(2, "f4,i4")])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_objects_text_and_records_are_refused(tmp_path, value, protocol):
    with pytest.raises(ValueError, match=r"'w'.*not one of numbers"):
        open_pickle(dumped(tmp_path / "w.pkl", {"w": value}, protocol))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, protocol):
    raw = pickle.dumps({"w": array("float32"), "b": [array("int8", (90,))]}, protocol)
    for end in range(len(raw)):
        (tmp_path / "w.pkl").write_bytes(raw[:end])
        with pytest.raises(ValueError, match=r"w.pkl"):
            open_pickle(tmp_path / "w.pkl")
