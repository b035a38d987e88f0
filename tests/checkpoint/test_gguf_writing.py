"""What is written as GGUF is read again as it was, and streams."""

import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from gguf_samples import ENTRIES, METADATA, gguf, info, sample

from wlab.checkpoint.formats.gguf import open_gguf
from wlab.checkpoint.formats.gguf_blocks import encode
from wlab.checkpoint.formats.gguf_header import gguf_header
from wlab.checkpoint.formats.gguf_writing import save_gguf
from wlab.checkpoint.source import Lazy

ARCHITECTURE = {"general.architecture": "llama"}


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "foreign.gguf"
    path.write_bytes(sample())
    return path


def test_a_file_that_is_read_and_written_again_is_the_same(tmp_path, foreign):
    source, path = open_gguf(foreign), tmp_path / "w.gguf"
    save_gguf(path, source.arrays, metadata=source.metadata, types=gguf_header(foreign).types)
    assert path.read_bytes() == sample()


def test_its_alignment_is_kept(tmp_path):
    aligned = b"\x11\0\0\0\0\0\0\0general.alignment\4\0\0\0\x80\0\0\0"
    content = gguf([aligned], [info("a", (3,), 24, 0)], bytes([1, 2, 3] + [0] * 125), alignment=128)
    (tmp_path / "a.gguf").write_bytes(content)
    source = open_gguf(tmp_path / "a.gguf")
    save_gguf(tmp_path / "b.gguf", source.arrays, metadata=source.metadata)
    assert (tmp_path / "b.gguf").read_bytes() == content


def test_a_file_may_be_written_over_itself(foreign):
    source = open_gguf(foreign)
    save_gguf(foreign, source.arrays, metadata=source.metadata, types=gguf_header(foreign).types)
    assert foreign.read_bytes() == sample()


def test_metadata_is_typed_by_inference(tmp_path, foreign):
    path = tmp_path / "w.gguf"
    metadata = {key: value for key, value in open_gguf(foreign).metadata.items() if value != []}
    metadata["a.float64"] = 0.5  # 0.1 is no float32
    save_gguf(path, {}, metadata=metadata)
    found = gguf_header(path)
    assert found.metadata == metadata
    assert found.types == {
        "general.architecture": "string",
        "a.uint8": "uint32",
        "a.int8": "int32",
        "a.uint16": "uint32",
        "a.int16": "int32",
        "a.uint32": "uint32",
        "a.int32": "int32",
        "a.float32": "float32",
        "a.bool": "bool",
        "a.uint64": "uint64",
        "a.int64": "int64",
        "a.float64": "float32",
        "tokens": "string[]",
        "token_type": "int32[]",
        "flags": "bool[]",
        "scores": "float32[]",
    }


def test_numpy_values_carry_their_types(tmp_path):
    metadata = {"a": np.uint16(3), "b": np.float64(0.1), "c": np.arange(3, dtype=np.int8)}
    save_gguf(tmp_path / "w.gguf", {}, metadata=metadata)
    found = gguf_header(tmp_path / "w.gguf")
    assert found.types == {"a": "uint16", "b": "float64", "c": "int8[]"}
    assert found.metadata == {"a": 3, "b": 0.1, "c": [0, 1, 2]}


def test_arrays_are_written_by_dtype(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6))
    arrays = {
        "f32": x.astype(np.float32).T[::2],  # not contiguous
        "big": x.astype(">f4"),
        "f16": x.astype(np.float16),
        "bf16": x.astype(ml_dtypes.bfloat16),
        "f64": x,
        "i8": np.int8([[-1, 2]]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_gguf(tmp_path / "w.gguf", arrays, metadata=ARCHITECTURE)
    found = open_gguf(tmp_path / "w.gguf").arrays
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.name
        np.testing.assert_array_equal(found[name].read(), array, err_msg=name)


def test_arrays_are_encoded_as_asked(tmp_path, foreign):
    x = np.random.default_rng(0).standard_normal((2, 3, 64)).astype(np.float32)
    arrays = {"a": x, "b": x.astype(ml_dtypes.bfloat16), "c": open_gguf(foreign).arrays["blk.0.w"]}
    encodings = {"a": "Q8_0", "b": "Q4_0", "c": "F16"}
    save_gguf(tmp_path / "w.gguf", arrays, metadata=ARCHITECTURE, encodings=encodings)
    found = open_gguf(tmp_path / "w.gguf").arrays
    assert found["a"].shape == (2, 3, 64)
    np.testing.assert_array_equal(found["a"].blocks(), encode(x.reshape(6, 64), "Q8_0"))
    np.testing.assert_array_equal(
        found["b"].blocks(), encode(arrays["b"].astype(np.float32).reshape(6, 64), "Q4_0")
    )
    np.testing.assert_array_equal(
        found["c"].read(), arrays["c"].read().astype(np.float16), strict=True
    )


def test_blocks_can_be_written_as_the_numbers_they_stand_for(tmp_path, foreign):
    blocks = open_gguf(foreign).arrays["blk.0.w"]
    encodings = {"w": "F32"}
    save_gguf(tmp_path / "w.gguf", {"w": blocks}, metadata=ARCHITECTURE, encodings=encodings)
    found = open_gguf(tmp_path / "w.gguf").arrays["w"]
    assert found.encoding is None
    np.testing.assert_array_equal(found.read(), blocks.read())


def test_one_array_is_in_memory_at_a_time(tmp_path):
    size = 1 << 20

    def read():
        return np.ones(size, np.float32)

    arrays = {f"w{i}": Lazy((size,), "float32", 4 * size, read) for i in range(6)}
    tracemalloc.start()
    try:
        save_gguf(tmp_path / "w.gguf", arrays, metadata=ARCHITECTURE)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * 4 * size
    finally:
        tracemalloc.stop()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.gguf"
    save_gguf(path, {}, metadata=ARCHITECTURE)
    with pytest.raises(ValueError, match="array 'w': encode: a NaN"):
        save_gguf(path, {"w": np.full(32, np.nan)}, metadata=ARCHITECTURE, encodings={"w": "Q8_0"})
    assert open_gguf(path).metadata == ARCHITECTURE
    assert os.listdir(tmp_path) == ["w.gguf"]


ONES = np.ones((2, 32), np.float32)
LYING = Lazy((2, 32), "float32", 256, lambda: np.ones(3, np.float32))
BAD_ARRAYS = {
    "a dtype that the format lacks": ({"w": np.ones(2, bool)}, {}, "array 'w' is bool, which"),
    "integers to encode": ({"w": np.ones(32, np.int8)}, {"w": "Q8_0"}, "of int8 cannot be written"),
    "an encoding that is not written": ({"w": ONES}, {"w": "Q4_K"}, "as 'Q4_K'; float32"),
    "rows of part of a block": ({"w": ONES[:, :31]}, {"w": "Q8_0"}, "'w' has rows of 31, not"),
    "an encoding of nothing": ({"w": ONES}, {"v": "Q8_0"}, "'v' is given a type, but"),
    "a name that is too long": ({"w" * 64: ONES}, {}, "a name of 64 bytes; ggml takes at most"),
    "too many dimensions": ({"w": np.ones([1] * 5)}, {}, "'w' has 5 dimensions"),
    "a reader that lies": ({"w": LYING}, {}, r"'w' gave 12 bytes, \[2, 32\] in F32 takes 256"),
}


@pytest.mark.parametrize(("arrays", "encodings", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_have_no_place_are_refused(tmp_path, arrays, encodings, message):
    with pytest.raises(ValueError, match=message):
        save_gguf(tmp_path / "w.gguf", arrays, metadata=ARCHITECTURE, encodings=encodings)
    assert os.listdir(tmp_path) == []


BAD_METADATA = {
    "an empty list": ({"k": []}, {}, r"'k' \(empty\) cannot be inferred; name it in `types`"),
    "a mixed list": ({"k": [1, "a"]}, {}, r"'k' \(int, str\) cannot be inferred"),
    "a mapping": ({"k": {}}, {}, r"'k' \(dict\) cannot be inferred"),
    "an unknown type": ({"k": 1}, {"k": "uint128"}, "'k' is of the unknown type 'uint128'"),
    "a number too large": ({"k": 256}, {"k": "uint8"}, "metadata 'k' is not uint8"),
    "an int beyond 64 bits": ({"k": 2**64}, {}, "metadata 'k' is not int64"),
    "a float as an int": ({"k": 1.5}, {"k": "int32"}, "metadata 'k' is not int32"),
    "a float too large": ({"k": 1e300}, {}, "metadata 'k' is not float32"),
    "an int as a bool": ({"k": 2}, {"k": "bool"}, "metadata 'k' is not bool"),
    "a number as text": ({"k": 2}, {"k": "string"}, "metadata 'k' is not string"),
    "one number as many": ({"k": 2}, {"k": "int32[]"}, r"metadata 'k' is not int32\[\]"),
    "text that cannot be encoded": ({"k": "\ud800"}, {}, "metadata 'k' is not string"),
    "a type of nothing": ({}, {"k": "int8"}, "'k' is given a type, but"),
    "an alignment of 3": ({"general.alignment": 3}, {}, "general.alignment is 3, not"),
    "a negative alignment": ({"general.alignment": -32}, {}, "general.alignment is -32, not"),
    "a huge alignment": ({"general.alignment": 2**40}, {}, "general.alignment is 1099"),
}


@pytest.mark.parametrize(("metadata", "types", "message"), BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_has_no_place_is_refused(tmp_path, metadata, types, message):
    with pytest.raises(ValueError, match=message):
        save_gguf(tmp_path / "w.gguf", {}, metadata=metadata, types=types)


def test_the_callers_values_are_left_as_they_were(foreign, tmp_path):
    metadata = {key: value for key, (_, value) in METADATA.items()}
    types = {key: kind for key, (kind, _) in METADATA.items()}
    before = [dict(metadata), dict(types)]
    save_gguf(tmp_path / "w.gguf", {}, metadata=metadata, types=types)
    assert [metadata, types] == before
    assert gguf(ENTRIES, []) == (tmp_path / "w.gguf").read_bytes()
