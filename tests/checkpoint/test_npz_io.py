"""npz files agree with NumPy, and keep the dtypes that NumPy lacks."""

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.checkpoint import load_npz, save_npz
from wlab.checkpoint.npz_header import npz_header

TREE = {
    "dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)},
    "file": [jnp.int8([-1, 2]), jnp.array([True])],
    "scalar": jnp.float32(2.5),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_tree_survives(tmp_path, compressed):
    save_npz(tmp_path / "w.npz", TREE, compressed=compressed)
    found = load_npz(tmp_path / "w.npz", like=TREE)
    assert jax.tree.structure(found) == jax.tree.structure(TREE)
    jax.tree.map(np.testing.assert_array_equal, found, TREE)
    assert found["dense"]["bias"].dtype == jnp.bfloat16
    assert list(load_npz(tmp_path / "w.npz")["file"]) == ["0", "1"]


def test_numpy_reads_what_we_write(tmp_path):
    save_npz(tmp_path / "w.npz", TREE)
    with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["dense/kernel"], TREE["dense"]["kernel"])
        np.testing.assert_array_equal(file["dense/bias"], np.full(3, 0x3F80, np.uint16))


def test_we_read_what_numpy_writes(tmp_path):
    np.savez_compressed(tmp_path / "w.npz", **{"a/b": np.arange(3), "c": np.float64(1)})
    found = load_npz(tmp_path / "w.npz")
    np.testing.assert_array_equal(found["a"]["b"], [0, 1, 2])
    assert found["c"].dtype == np.float64


def test_what_the_format_lacks_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"leaf 'a/w' is int4.*Pack int4 into uint8"):
        save_npz(tmp_path / "w.npz", {"a": {"w": jnp.ones(2, jnp.int4)}})
    assert list(tmp_path.iterdir()) == []


def npy(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def npz(member: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("w.npy", member)
    return file.getvalue()


def npz_of_dtypes(text: str) -> bytes:
    file = io.BytesIO()
    np.savez(file, w=np.zeros(2, np.float32), __dtypes__=np.array(text))
    return file.getvalue()


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([{}], object), allow_pickle=True)
F4 = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"
HOSTILE = {
    "not a zip": (b"PK but no more", "not an npz file or is truncated"),
    "a truncated zip": (npz(npy(F4, bytes(8)))[:-30], "not an npz file or is truncated"),
    "not an array": (npz(b"hello, world"), "'w.npy' is not an array"),
    "an unknown version": (npz(npy(F4, bytes(8), b"\x09\x00")), "'w.npy' is not an array"),
    "code in the header": (npz(npy(b"__import__('os')\n")), "'w.npy' is not an array"),
    "a huge header": (npz(npy(b"(" * 60_000)), "'w.npy' is not an array"),
    "a shape that is not there": (npz(npy(F4, bytes(4))), "claims float32.* has 4 bytes"),
    "a huge shape": (npz(npy(F4.replace(b"(2,)", b"(2**62,)"))), "is not an array"),
    "an enormous claim": (npz(npy(F4.replace(b"2,", b"4000000000000,"))), "has 0 bytes"),
    "a negative shape": (npz(npy(F4.replace(b"(2,)", b"(-1, -2)"), bytes(8))), "claims float32"),
    "dtypes of no array": (npz_of_dtypes('{"w": "bfloat16"}'), "does not describe the arrays"),
    "dtypes that are no list": (npz_of_dtypes("["), "does not describe the arrays"),
    "pickled objects": (npz(OBJECTS.getvalue()), "holds Python objects"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused(tmp_path, content, message):
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path / "w.npz")


def test_a_bomb_is_listed_without_being_unpacked(tmp_path):
    """64 MB of zeros in 64 KB: the header is enough."""
    header = F4.replace(b"(2,)", b"(16777216,)")
    (tmp_path / "w.npz").write_bytes(npz(npy(header, bytes(2**26)), zipfile.ZIP_DEFLATED))
    assert (tmp_path / "w.npz").stat().st_size < 100_000
    assert npz_header(tmp_path / "w.npz") == {"w": ("float32", (2**24,))}
