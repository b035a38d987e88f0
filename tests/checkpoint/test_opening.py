"""Any file is opened by its first bytes or its name, and a file of another kind is named."""

import jax.numpy as jnp
import numpy as np
import pytest
from fuzz_rows_headers import ROWS as HEADERS
from fuzz_rows_pickles import ROWS as PICKLES

from wlab.checkpoint import open_source, save_npz

ROWS = HEADERS | PICKLES
FILES = {
    "anything": ("gguf", "gguf"),
    "w.safetensors": ("safetensors", "safetensors"),
    "w.safetensors.index.json": ("safetensors index", "safetensors"),
    "model.json": ("tfjs", "tfjs"),
    "w.pth": ("torch zip", "torch"),
    "w.bin": ("torch zip", "torch"),
    "w.ckpt": ("torch legacy", "torch"),
    "v.ckpt": ("pickle 4", "pickle"),
    "v.pkl": ("pickle 2", "pickle"),
    "w.msgpack": ("msgpack", "msgpack"),
    "w.onnx": ("onnx", "onnx"),
}


@pytest.mark.parametrize(("name", "row", "kind"), [(n, *found) for n, found in FILES.items()])
def test_a_file_is_known_by_what_it_is(tmp_path, name, row, kind):
    write, _ = ROWS[row]
    write(tmp_path / name)
    source = open_source(tmp_path / name)
    assert source.format.replace("-", " ") == kind
    for array in source.arrays.values():
        read = array.read()
        assert (read.shape, read.dtype.name) == (array.shape, array.dtype)


def test_npz_members_are_read_one_at_a_time(tmp_path):
    save_npz(tmp_path / "w.npz", {"a": {"b": jnp.arange(3, dtype=jnp.bfloat16)}, "c": np.ones(2)})
    arrays = open_source(tmp_path / "w.npz").arrays
    assert (arrays["a/b"].dtype, arrays["a/b"].shape, arrays["a/b"].nbytes) == ("bfloat16", (3,), 6)
    np.testing.assert_array_equal(arrays["a/b"].read().astype(np.float32), [0, 1, 2])
    np.testing.assert_array_equal(arrays["c"].read(), [1, 1])


def test_what_is_not_there_or_not_known_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Nothing at .*w\.npz"):
        open_source(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="is a folder"):
        open_source(tmp_path)
    (tmp_path / "w.txt").write_bytes(b"hello")
    with pytest.raises(ValueError, match="no known format: it begins with b'hello'"):
        open_source(tmp_path / "w.txt")
