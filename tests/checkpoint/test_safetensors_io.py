"""safetensors files agree with the reference library, appear whole, and cost the caller nothing."""

import json
import os
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.flax
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wlab.checkpoint import atomic, load_safetensors, save_safetensors
from wlab.checkpoint.safetensors_header import DTYPES, safetensors_header


class Dense(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


TREE = {
    "dense": Dense(jnp.arange(6.0).reshape(2, 3), jnp.ones(3, jnp.bfloat16)),
    "codes": [jnp.int8([-1, 2]), jnp.uint8([255]), jnp.array([True, False])],
    "scalar": jnp.float32(2.5),
    "empty": jnp.zeros((0, 4)),
    "hole": None,
}


def assert_equal_leaves(a, b):
    assert {p: (x.dtype, x.shape) for p, x in a.items()} == {
        p: (x.dtype, x.shape) for p, x in b.items()
    }
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


FLAT = {
    "codes/0": TREE["codes"][0],
    "codes/1": TREE["codes"][1],
    "codes/2": TREE["codes"][2],
    "dense/bias": TREE["dense"].bias,
    "dense/kernel": TREE["dense"].kernel,
    "empty": TREE["empty"],
    "scalar": TREE["scalar"],
}


def test_the_reference_library_reads_what_we_write(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", TREE, metadata={"made by": "a test"})
    theirs = safetensors.flax.load_file(tmp_path / "w.safetensors")
    assert_equal_leaves(dict(sorted(theirs.items())), FLAT)
    with safetensors.safe_open(tmp_path / "w.safetensors", "numpy") as file:
        assert file.metadata() == {"made by": "a test"}


def test_we_read_what_the_reference_library_writes(tmp_path):
    ours = {name: np.asarray(leaf) for name, leaf in FLAT.items()}
    safetensors.numpy.save_file(ours, tmp_path / "w.safetensors", metadata={"k": "v"})
    found = load_safetensors(tmp_path / "w.safetensors", like=FLAT)
    assert_equal_leaves(found, FLAT)
    assert safetensors_header(tmp_path / "w.safetensors").metadata == {"k": "v"}


def test_a_tree_is_nested_again_or_filled_in(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", TREE)
    nested = load_safetensors(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(nested["dense"]["kernel"], TREE["dense"].kernel)
    assert list(nested["codes"]) == ["0", "1", "2"]
    filled = load_safetensors(tmp_path / "w.safetensors", like=jax.eval_shape(lambda: TREE))
    assert jax.tree.structure(filled) == jax.tree.structure(TREE)


def test_the_callers_dict_is_left_as_it_was(tmp_path):
    tree = {"a": jnp.ones(2), "b": {"c": jnp.zeros(1)}}
    before = {"a": tree["a"], "b": {"c": tree["b"]["c"]}}
    save_safetensors(tmp_path / "w.safetensors", tree)
    assert tree["a"] is before["a"] and tree["b"]["c"] is before["b"]["c"]
    assert list(tree) == ["a", "b"]


def test_arrays_that_are_not_contiguous_are_written_in_order(tmp_path):
    array = np.arange(12.0, dtype=np.float32).reshape(3, 4).T[::2]
    save_safetensors(tmp_path / "w.safetensors", {"w": array, "big": array.astype(">f4")})
    theirs = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(theirs["w"], array)
    np.testing.assert_array_equal(theirs["big"], array)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_dtype_and_shape_survives(data, tmp_path_factory):
    dtype = np.dtype(data.draw(st.sampled_from(sorted(DTYPES.values()))))
    shape = data.draw(hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    raw = data.draw(hnp.arrays(np.uint8, (*shape, dtype.itemsize), elements=st.integers(0, 1)))
    array = raw.view(dtype).reshape(shape)
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    save_safetensors(path, {"w": array})
    found = load_safetensors(path)["w"]
    assert (found.dtype, found.shape, found.tobytes()) == (dtype, shape, array.tobytes())


@pytest.mark.parametrize(
    "leaf", [jnp.ones(2, jnp.int4), np.ones(2, ml_dtypes.uint4), jax.random.key(0)]
)
def test_what_the_format_lacks_is_refused_with_the_remedy(tmp_path, leaf):
    with pytest.raises(ValueError, match=r"leaf 'a/w' is .*Pack int4 into uint8"):
        save_safetensors(tmp_path / "w.safetensors", {"a": {"w": leaf}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros(2)}, "leaf 'b' has no place"),
        ({"a": np.zeros(2), "b": np.zeros(1), "c": np.zeros(1)}, "leaf 'c' is missing"),
        ({"a": np.zeros(3), "b": np.zeros(1)}, r"'a' is float64\[2\], float64\[3\] is wanted"),
        (
            {"a": np.zeros(2, np.float32), "b": np.zeros(1)},
            r"leaf 'a' is float64\[2\], float32\[2\] is wanted",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_leaf(tmp_path, like, message):
    save_safetensors(tmp_path / "w.safetensors", {"a": np.zeros(2), "b": np.zeros(1)})
    with pytest.raises(ValueError, match=message):
        load_safetensors(tmp_path / "w.safetensors", like=like)


def test_paths_that_end_inside_each_other_cannot_be_nested(tmp_path):
    arrays = {"a": np.zeros(1), "a/b": np.zeros(1)}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="'a/b' and another one end inside each other"):
        load_safetensors(tmp_path / "w.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_safetensors(path, {"w": np.zeros(2)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_safetensors(path, {"w": np.ones(2)})
    np.testing.assert_array_equal(load_safetensors(path)["w"], [0, 0])
    assert os.listdir(tmp_path) == ["w.safetensors"]


def tensor(begin, end, dtype="F32", shape=None):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HOSTILE = {
    "an empty file": (b"", "truncated"),
    "another format": (b"GGUF" + bytes(40), "header claims"),
    "a header longer than the file": (file_of({}, length=2**40), "header claims 1,099"),
    "a header that is not JSON": (file_of(b"{]"), "not JSON"),
    "a header of deep brackets": (file_of(b"[" * 100_000), "not JSON"),
    "a header that is a list": (file_of(b"[1]"), "a JSON list"),
    "a dtype that is no text": (file_of({"w": tensor(0, 4, [])}, bytes(4)), "unknown dtype"),
    "an unknown dtype": (file_of({"w": tensor(0, 4, "F31")}, bytes(4)), "unknown dtype 'F31'"),
    "a missing field": (file_of({"w": {"dtype": "F32"}}), "header of array 'w' is malformed"),
    "a negative size": (file_of({"w": tensor(0, 4, shape=[-1])}, bytes(4)), r"F32\[-1\]"),
    "a size that is true": (file_of({"w": tensor(0, 4, shape=[True])}, bytes(4)), "stands at"),
    "a shape that is too big": (file_of({"w": tensor(0, 4, shape=[2])}, bytes(4)), r"F32\[2\]"),
    "arrays that overlap": (
        file_of({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        "'b' overlaps",
    ),
    "a gap": (file_of({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "'b' leaves a gap"),
    "a truncated array": (file_of({"w": tensor(0, 8)}, bytes(7)), "describes .* the file has"),
    "bytes to spare": (file_of({"w": tensor(0, 8)}, bytes(9)), "the file has"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused(tmp_path, content, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_safetensors(path)
