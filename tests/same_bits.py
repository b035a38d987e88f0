"""States held side by side, bit for bit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab import tree


def bits_of(leaf: Any) -> bytes:
    """The bits of one array or typed key."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


def assert_same_bits(a: Any, b: Any) -> None:
    """The same structure, dtypes and bits; else the paths that differ are told."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    left, right = tree.leaves(a), tree.leaves(b)
    assert {p: x.dtype for p, x in left.items()} == {p: x.dtype for p, x in right.items()}
    assert [p for p in left if bits_of(left[p]) != bits_of(right[p])] == []
