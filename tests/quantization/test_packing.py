"""Codes in bytes: a bit stream that any language can read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import quantization
from wlab.quantization import packed_length

pack = jax.jit(quantization.pack, static_argnames="bits")
unpack = jax.jit(quantization.unpack, static_argnames=("bits", "length"))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([2, 3, 4, 5, 8]),
    st.sampled_from([(0,), (3, 8), (2, 3, 5)]),
    st.integers(0, 2**31),
)
def test_unpack_undoes_pack_and_numpy_writes_the_same_bytes(bits, shape, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint8)
    packed = pack(jnp.asarray(codes), bits)
    stream = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
    stream = stream.reshape(*shape[:-1], shape[-1] * bits)
    np.testing.assert_array_equal(packed, np.packbits(stream, axis=-1, bitorder="little"))
    assert packed.shape == (*shape[:-1], packed_length(shape[-1], bits))
    np.testing.assert_array_equal(unpack(packed, bits, shape[-1]), codes)


def test_the_low_bits_come_first():
    np.testing.assert_array_equal(pack(jnp.array([1, 2, 15], jnp.uint8), 4), [0x21, 0x0F])
    np.testing.assert_array_equal(pack(jnp.array([0, 1, 2, 3], jnp.uint8), 2), [0b11100100])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packing_is_the_same_inside_jit(bits):
    codes = jnp.asarray(np.arange(64 * 48).reshape(64, 48) % 2**bits, jnp.uint8)
    packed = pack(codes, bits)
    np.testing.assert_array_equal(quantization.pack(codes, bits), packed)
    np.testing.assert_array_equal(quantization.unpack(packed, bits, 48), codes)
    np.testing.assert_array_equal(unpack(packed, bits, 48), codes)
