"""safetensors files, alone and as the shards of an index, opened array by array."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from wlab.checkpoint.formats.safetensors import open_safetensors, open_safetensors_index

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4).astype(ml_dtypes.bfloat16)
C = np.array([True, False])


@pytest.fixture
def index(tmp_path):
    """Writes two shards and an index that maps names to them."""
    safetensors.numpy.save_file({"a": A, "b": B}, tmp_path / "1.safetensors")
    safetensors.numpy.save_file({"c": C}, tmp_path / "2.safetensors")

    def write(names, **more):
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": names} | more))
        return path

    return write


WHOLE = {"c": "2.safetensors", "a": "1.safetensors", "b": "1.safetensors"}


def check(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        lazy = arrays[name]
        assert (lazy.shape, lazy.dtype, lazy.nbytes) == (
            array.shape,
            array.dtype.name,
            array.nbytes,
        )
        np.testing.assert_array_equal(lazy.read(), array, strict=True)


def test_a_file_of_the_reference_library(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"a": A, "b": B, "c": C}, path, metadata={"format": "np"})
    source = open_safetensors(path)
    check(source.arrays, {"a": A, "b": B, "c": C})
    assert (source.format, source.metadata) == ("safetensors", {"format": "np"})


def test_shards_are_opened_as_one_in_the_order_of_the_index(index):
    source = open_safetensors_index(index(WHOLE, metadata={"total_size": 34}))
    check(source.arrays, {"a": A, "b": B, "c": C})
    assert list(source.arrays) == ["c", "a", "b"]
    assert source.metadata == {"total_size": 34}


def test_shards_may_be_links_as_in_the_cache_of_the_hub(index, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("1.safetensors", "2.safetensors"):
        os.symlink(tmp_path / name, snapshot / name)
    linked = index(WHOLE).rename(snapshot / "model.safetensors.index.json")
    check(open_safetensors_index(linked).arrays, {"a": A, "b": B, "c": C})


def test_metadata_that_are_no_object_are_refused(tmp_path):
    header = json.dumps({"__metadata__": [1]}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"w\.safetensors: __metadata__ is not an object"):
        open_safetensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("shape", [[2**62, 0], [1] * 100 + [0]])
def test_a_shape_that_no_array_has_is_refused(tmp_path, shape):
    field = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({"w": field}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"w\.safetensors: array 'w' has the shape"):
        open_safetensors(tmp_path / "w.safetensors")


BAD = {
    "a list": ([], "`weight_map` does not map names to files"),
    "a number": (WHOLE | {"a": 1}, "`weight_map` does not map names to files"),
    "a name in no shard": (WHOLE | {"d": "2.safetensors"}, "'d' is listed in '2.safetensors', but"),
    "a name in the other shard": (
        WHOLE | {"a": "2.safetensors"},
        "'a' is in '1.safetensors', where",
    ),
    "a name that is not listed": (
        {"a": "1.safetensors", "c": "2.safetensors"},
        "'b' is in '1.safetensors', where it is not listed",
    ),
    "a missing shard": (WHOLE | {"d": "3.safetensors"}, "'3.safetensors', but there is no such"),
    "a path upwards": (WHOLE | {"d": "../1.safetensors"}, "not below its own folder"),
    "an absolute path": (WHOLE | {"d": "/1.safetensors"}, "not below its own folder"),
}


@pytest.mark.parametrize(("names", "message"), BAD.values(), ids=BAD.keys())
def test_an_index_that_lies_is_refused(index, names, message):
    path = index(names)
    with pytest.raises(ValueError, match=message) as error:
        open_safetensors_index(path)
    assert str(path) in str(error.value)


def test_an_index_with_metadata_of_another_form_is_refused(index):
    with pytest.raises(ValueError, match="`metadata` is not an object"):
        open_safetensors_index(index(WHOLE, metadata=3))


def test_numpy_reads_an_array_where_one_is_wanted(index):
    arrays = open_safetensors_index(index(WHOLE)).arrays
    np.testing.assert_array_equal(arrays["a"], A)
    assert np.asarray(arrays["b"]).dtype == B.dtype
    assert np.asarray(arrays["a"], np.float64).dtype == np.float64
