"""ggml's K-quants as values that rules give to leaves, as a `Format` is for other leaves."""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp

SIZE = 256  # weights in a block
_NBYTES = {"Q4_K": 144, "Q6_K": 210}  # of a block


@dataclass(frozen=True)
class KQuant:
    """Blocks of 256 inputs, whose scales are themselves written in few bits.

    It is no `Format`, whose scales have one level, and has no QTensor: `k_blocks` writes it, and
    GGUF files alone hold it.

    Attributes:
        encoding: ggml's name: "Q4_K", of 4.5 bits a weight, or "Q6_K", of 6.5625.
        axis: The inputs, along which blocks run.

    Raises:
        ValueError: If the encoding is neither.
    """

    encoding: str
    axis: int = -1

    def __post_init__(self) -> None:
        if self.encoding not in _NBYTES:
            raise ValueError(f"KQuant: encoding must be in {tuple(_NBYTES)}, got {self.encoding}.")

    def __str__(self) -> str:
        return f"ggml {self.encoding}"


def check_k_leaf(leaf: Any, format: KQuant, name: str = "array") -> None:
    """Raises unless a leaf (an array or a shape) is whole blocks of a K-quant.

    Raises:
        TypeError: If it is not real floating point.
        ValueError: If it lacks the axis, or that is not a multiple of 256.
    """
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} is {dtype}, not floating point: give it the rule value None.")
    if not -len(shape) <= format.axis < len(shape):
        raise ValueError(f"{name} of {list(shape)} has no axis {format.axis} for {format}.")
    if shape[format.axis] % SIZE:
        raise ValueError(
            f"{name} has {shape[format.axis]:,} inputs, not whole {format.encoding} blocks of "
            f"{SIZE}: give it a format with blocks of 32, as ggml_q5_0 or ggml_q8_0."
        )


def k_bytes(format: KQuant, shape: tuple[int, ...]) -> int:
    """Bytes of the blocks of an array, without there being one."""
    return prod(shape) // SIZE * _NBYTES[format.encoding]
