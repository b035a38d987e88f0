"""A shuffle without a table: each epoch's order is a keyed bijection, computed per sample.

No state, no sort and no memory, so any position of any epoch can be asked for directly. The
arithmetic is 32-bit and the same in numpy and in JAX, where it runs inside a compiled step.
"""

from typing import Any

import numpy as np

_ROUND_KEYS = tuple(np.uint32(i * 0x9E3779B9 % 2**32) for i in range(6))  # golden-ratio steps


def shuffled(position: Any, epoch: Any, *, size: int, seed: Any) -> Any:
    """The sample that stands at `position` of the shuffled `epoch`.

    For each epoch this permutes 0 … size-1: a six-round Feistel network over the fewest bits
    that hold `size`, repeated for those values that fall outside (cycle walking).

    Args:
        position: uint32 array, numpy or JAX (traced or not), each below `size`.
        epoch: uint32 array of the same kind that broadcasts against `position`.
        size: The number of samples.
        seed: Below 2**32; a uint32 scalar when traced.

    Reference:
        Luby & Rackoff 1988 (Feistel rounds); Black & Rogaway 2002 (cycle walking); the mixing
        constants are those of Wellons 2018 (lowbias32).
    """
    bits = max((size - 1).bit_length(), 6)  # fewer would bias the order of tiny sets
    key = _mixed(_mixed(epoch) ^ seed)
    walk = _walk_numpy if isinstance(position, np.ndarray) else _walk_jax
    return walk(position, key, size, bits)


def _walk_numpy(x: np.ndarray, key: np.ndarray, size: int, bits: int) -> np.ndarray:
    x = _feistel(x, key, bits)
    while (outside := x >= size).any():
        x = np.where(outside, _feistel(x, key, bits), x)
    return x


def _walk_jax(x: Any, key: Any, size: int, bits: int) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.lax.while_loop(
        lambda x: (x >= size).any(),
        lambda x: jnp.where(x >= size, _feistel(x, key, bits), x),
        _feistel(x, key, bits),
    )


def _feistel(x: Any, key: Any, bits: int) -> Any:
    """A bijection on `bits` bits: every round mixes one part with a hash of the other."""
    low, high = bits // 2, bits - bits // 2
    for round_key in _ROUND_KEYS:
        left, right = x >> np.uint32(low), x & np.uint32((1 << low) - 1)
        left = left ^ (_mixed(right ^ (key + round_key)) & np.uint32((1 << high) - 1))
        x = (right << np.uint32(high)) | left
        low, high = high, low
    return x


def _mixed(x: Any) -> Any:
    """A bijection on 32 bits: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
