"""Codes in bytes: a bit stream that any language can read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import quantization
from wlab.quantization import packed_length
from wlab.quantization.packing import ORDERS

pack = jax.jit(quantization.pack, static_argnames=("bits", "order"))
unpack = jax.jit(quantization.unpack, static_argnames=("bits", "length", "order"))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]),
    st.sampled_from(ORDERS),
    st.sampled_from([(0,), (3, 8), (2, 3, 5)]),
    st.integers(0, 2**31),
)
def test_unpack_undoes_pack_and_numpy_writes_the_same_bytes(bits, order, shape, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint8)
    packed = pack(jnp.asarray(codes), bits, order)
    ends = "little" if order == "low_first" else "big"
    stream = np.unpackbits(codes[..., None], axis=-1, bitorder=ends)
    stream = stream[..., :bits] if ends == "little" else stream[..., 8 - bits :]
    stream = stream.reshape(*shape[:-1], shape[-1] * bits)
    np.testing.assert_array_equal(packed, np.packbits(stream, axis=-1, bitorder=ends))
    assert packed.shape == (*shape[:-1], packed_length(shape[-1], bits))
    np.testing.assert_array_equal(unpack(packed, bits, shape[-1], order), codes)


@pytest.mark.parametrize("order", ORDERS)
def test_codes_of_sixteen_bits_are_two_bytes(order):
    codes = np.array([[0, 1, 0x1234, 0xFFFF, 0x8000]], np.uint16)
    packed = pack(jnp.asarray(codes), 16, order)
    stored = codes.astype("<u2" if order == "low_first" else ">u2")
    np.testing.assert_array_equal(packed, stored.view(np.uint8))
    found = unpack(packed, 16, 5, order)
    np.testing.assert_array_equal(found, codes)
    assert found.dtype == jnp.uint16


def test_the_low_bits_come_first():
    np.testing.assert_array_equal(pack(jnp.array([1, 2, 15], jnp.uint8), 4), [0x21, 0x0F])
    np.testing.assert_array_equal(pack(jnp.array([0, 1, 2, 3], jnp.uint8), 2), [0b11100100])
    high = pack(jnp.array([1, 2, 15], jnp.uint8), 4, "high_first")
    np.testing.assert_array_equal(high, [0x12, 0xF0])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packing_is_the_same_inside_jit(bits):
    codes = jnp.asarray(np.arange(64 * 48).reshape(64, 48) % 2**bits, jnp.uint8)
    packed = pack(codes, bits)
    np.testing.assert_array_equal(quantization.pack(codes, bits), packed)
    np.testing.assert_array_equal(quantization.unpack(packed, bits, 48), codes)
    np.testing.assert_array_equal(unpack(packed, bits, 48), codes)
