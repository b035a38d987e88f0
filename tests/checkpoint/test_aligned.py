"""Arrays that JAX takes as they are: where they begin, and that nothing else holds them."""

import jax
import numpy as np
import pytest

from wlab.checkpoint import open_source, save_safetensors
from wlab.checkpoint.aligned import aligned, aligned_empty
from wlab.pretrained import NameMap, load, move
from wlab.pretrained.ops import Transpose

KERNEL = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_an_array_begins_at_a_multiple_of_64_bytes(shape, dtype):
    array = aligned_empty(shape, np.dtype(dtype))
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.size == 0 or array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous


def test_only_what_does_not_stand_right_is_copied():
    right = aligned_empty((4, 6), np.dtype(np.float32))
    right[...] = KERNEL
    assert aligned(right) is right
    for other in (right.T, right[1:, 1:], right.reshape(-1)[1:]):
        copy = aligned(other)
        assert not np.shares_memory(copy, right)
        assert copy.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy, other)


def test_each_read_has_memory_of_its_own(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", {"w": KERNEL})
    lazy = open_source(tmp_path / "w.safetensors").arrays["w"]
    first = lazy.read()
    first[...] = 0
    np.testing.assert_array_equal(lazy.read(), KERNEL)


def test_leaves_that_took_memory_as_it_was_may_be_donated_and_outlive_the_file(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", {"a": KERNEL, "b": KERNEL})
    name_map = NameMap((move("a", "a"), move("b", "b", Transpose())))
    like = {
        "a": jax.ShapeDtypeStruct((4, 6), "float32"),
        "b": jax.ShapeDtypeStruct((6, 4), "float32"),
    }
    params = load(tmp_path / "w.safetensors", name_map, like).params
    (tmp_path / "w.safetensors").write_bytes(b"")
    doubled = jax.jit(lambda p: jax.tree.map(lambda x: x + x, p), donate_argnums=0)(params)
    np.testing.assert_array_equal(doubled["a"], 2 * KERNEL)
    np.testing.assert_array_equal(doubled["b"], 2 * KERNEL.T)
