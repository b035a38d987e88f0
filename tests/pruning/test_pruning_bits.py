"""Packed masks: exact, an eighth of a byte, and sharded as the leaf is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab import pruning

SHAPES = [(), (1,), (11,), (64,), (10, 3), (3, 10), (100, 10), (3, 3, 16, 8), (5, 8, 7), (0, 4)]


@pytest.mark.parametrize("storage", ["bits", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_unpack_inverts_pack(storage, shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    packed = pruning.pack(jnp.asarray(mask), storage=storage)
    assert packed.ndim == len(shape)
    np.testing.assert_array_equal(pruning.unpack(packed, shape), mask)


@given(shape=st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_packed_axis_wastes_least_and_is_the_last_only_if_it_must(shape):
    def size(axis: int) -> int:
        return math.prod(shape) // shape[axis] * -(-shape[axis] // 8)

    axis, least = pruning.packed_axis(shape), min(map(size, range(len(shape))))
    assert size(axis) == least
    is_last = axis == len(shape) - 1
    assert not is_last or len(shape) == 1 or min(map(size, range(len(shape) - 1))) > least


def test_bits_agree_with_numpy_along_the_packed_axis():
    mask = np.random.default_rng(1).random((24, 5)) < 0.5
    packed = pruning.pack(jnp.asarray(mask))
    np.testing.assert_array_equal(packed, np.packbits(mask, axis=0, bitorder="little"))


def test_layers_take_at_most_an_eighth_of_a_byte_a_weight():
    layers = [
        (784, 300),
        (300, 100),
        (100, 10),
        (2048, 2048),
        (3, 3, 64, 64),
        (300,),
        (100,),
        (10,),
    ]
    packed = [jax.eval_shape(pruning.pack, jax.ShapeDtypeStruct(s, bool)) for s in layers]
    for shape, bits in zip(layers[:5], packed[:5], strict=True):
        assert bits.size <= 0.13 * math.prod(shape)
    assert sum(bits.size for bits in packed) <= 0.126 * sum(map(math.prod, layers))
    assert jax.eval_shape(pruning.pack, jax.ShapeDtypeStruct((11,), bool)).shape == (2,)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_shards_of_whole_bytes_pack_and_unpack_without_communication(axis_type):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    spec = NamedSharding(mesh, P("x", "y"))
    mask = np.random.default_rng(2).random((64, 6)) < 0.5
    pack = jax.jit(pruning.pack).lower(jax.device_put(mask, spec)).compile()
    packed = pack(jax.device_put(mask, spec))
    unpack = jax.jit(lambda packed: pruning.unpack(packed, (64, 6))).lower(packed).compile()
    assert packed.sharding.spec == P("x", "y") == unpack(packed).sharding.spec
    np.testing.assert_array_equal(unpack(packed), mask)
    for text in (pack.as_text(), unpack.as_text()):
        assert not any(
            word in text for word in ("all-gather", "all-to-all", "permute", "all-reduce")
        )
