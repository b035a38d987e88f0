"""A fingerprint of each leaf's bits that does not depend on how the leaf is sharded.

$d = \\sum_i (2i + 1)\\, w_i \\bmod 2^{32}$ over the leaf's elements $w_i$ read as unsigned
words. The weights are odd, so any single changed element changes it. One pass over memory,
and only scalars cross devices. It finds damage, not malice.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def digests(leaves: dict[str, Any]) -> dict[str, int]:
    """The digest of each leaf, by path. Leaves on different devices may stand together."""
    groups: dict[frozenset[Any], dict[str, Any]] = {}
    for path, leaf in leaves.items():
        devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
        groups.setdefault(frozenset(devices), {})[path] = _without_int64(leaf)
    found: dict[str, Any] = {}
    for group in groups.values():
        found |= _digests(group)
    return {path: int(found[path]) for path in leaves}


@jax.jit
def _digests(leaves: dict[str, Any]) -> dict[str, Any]:
    return {path: digest(leaf) for path, leaf in leaves.items()}


def digest(array: Shaped[Array, "*shape"]) -> UInt[Array, ""]:
    """The digest of one array; typed keys count by their data."""
    words = _words(array)
    weight, stride = jnp.uint32(1), 2
    for axis in reversed(range(words.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weight = weight + index * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(words * weight, dtype=jnp.uint32)


def _words(array: Any) -> UInt[Array, "*words"]:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    if array.dtype == jnp.bool_ or _is_sub_byte(array.dtype):
        return array.astype(jnp.int8).astype(jnp.uint32)
    word = _WORDS.get(array.dtype.itemsize, jnp.uint32)  # 64 bits become a pair of words
    return jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)


def _is_sub_byte(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits < 8


def _without_int64(leaf: Any) -> Any:
    """JAX would narrow a 64-bit NumPy array; its bits are handed over as pairs of words."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.itemsize == 8:
        return np.ascontiguousarray(leaf).view(np.uint32).reshape(*leaf.shape, 2)
    return leaf
