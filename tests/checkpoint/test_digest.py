"""The digest sees every change of a bit and no change of layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_states import placed

from wlab.checkpoint.digest import digests

DTYPES = ["float32", "bfloat16", "float16", "int8", "uint8", "int32", "uint32", "bool"]


def closed_form(words: np.ndarray) -> int:
    return sum((2 * i + 1) * int(w) for i, w in enumerate(words.ravel())) % 2**32


@pytest.mark.parametrize("dtype", [*DTYPES, "float8_e4m3fn"])
def test_the_digest_is_its_closed_form(dtype):
    array = np.random.default_rng(0).integers(0, 2, (3, 5, 2)).astype(jnp.dtype(dtype))
    words = array.view(f"uint{8 * array.itemsize}")
    assert digests({"w": jnp.asarray(array)}) == {"w": closed_form(words)}


def test_int4_counts_its_values():
    assert digests({"w": jnp.array([1, -1], jnp.int4)}) == {"w": (1 + 3 * (2**32 - 1)) % 2**32}


def test_a_64_bit_numpy_array_counts_all_its_bits():
    array = np.array([1, 2**40], np.int64)
    assert digests({"w": array}) == {"w": closed_form(array.view(np.uint32))}


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_the_digest_does_not_depend_on_the_layout(devices):
    leaves = {
        "w": jax.random.normal(jax.random.key(0), (16, 6)),
        "keys": jax.random.split(jax.random.key(1), 8),
        "step": jnp.int32(3),
    }
    assert digests(placed(leaves, devices)) == digests(leaves)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(DTYPES[:-1]), st.integers(0, 23), st.integers(0, 7))
def test_any_flipped_bit_changes_the_digest(dtype, element, bit):
    array = np.arange(24).astype(jnp.dtype(dtype)).reshape(4, 6)
    flipped = array.copy()
    flipped.view(np.uint8).reshape(24, -1)[element, -1] ^= 1 << bit
    assert digests({"w": jnp.asarray(array)}) != digests({"w": jnp.asarray(flipped)})


def test_leaves_on_different_devices_stand_together():
    first, second = jax.devices()[:2]
    here = {"a": jax.device_put(jnp.ones(3), first), "b": jax.device_put(jnp.ones(3), second)}
    found = digests(here)
    assert list(found) == ["a", "b"] and found["a"] == found["b"]
