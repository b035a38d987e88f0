"""How a cache holds a layer's keys or values: an array, or codes with scales for each of them.

Heads stand before places: a product over those of one head then reads memory in order, and nothing
is moved first.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wlab.quantization import Format, QTensor, dequantize, quantize

Entries: TypeAlias = Array | QTensor  # (batch, kv_heads, context, size)


def empty_entries(shape: Sequence[int], dtype: Any, format: Format | None) -> Entries:
    """Room for keys or values, filled with zeros: an array, or codes if there is a format.

    Raises:
        ValueError: If the format's scales span more than the entries of one token and head.
    """
    if format is None:
        return jnp.zeros(shape, dtype)
    if format.axis != -1 or format.outer:
        raise ValueError(
            "A cache is written token by token: give a format with axis=-1 and one level of "
            f"scales, got {format}."
        )
    like = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
    written = jax.eval_shape(lambda x: quantize(x, format), like)
    return jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), written)


def put(
    entries: Entries, new: Float[Array, "batch time kv_heads size"], at: Int[Array, ""]
) -> Entries:
    """The entries with new ones from place `at` on, written as the others are."""
    new = new.astype(entries.dtype).swapaxes(1, 2)
    written = quantize(new, entries.format) if isinstance(entries, QTensor) else new
    return jax.tree.map(
        lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, at, axis=2),
        entries,
        written,
    )


def values_of(entries: Entries) -> Float[Array, "batch context kv_heads size"]:
    """What attention reads of a layer: the entries, or what their codes stand for."""
    plain = dequantize(entries) if isinstance(entries, QTensor) else entries
    return plain.swapaxes(1, 2)
