"""A kernel of any rank read as matrices, and two factors whose product has its axes.

The axes of a kernel are declared, not guessed: inputs, outputs, and stacked layers. What is left
(a convolution's window) feeds an output as inputs do. The factors keep the kernel's axes apart,
so the product needs no reshape and lies on a mesh as the kernel does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Float

AxisSpec: TypeAlias = int | Sequence[int]


class Factors(NamedTuple):
    """What is stored in the place of an adapted kernel.

    Attributes:
        a: (batch…, inputs…, rank).
        b: (batch…, rank, outputs…).
        m: The length of each output's weights, (batch…, outputs…); None without DoRA.
    """

    a: Float[Array, "..."]
    b: Float[Array, "..."]
    m: Float[Array, "..."] | None = None


@dataclass(frozen=True)
class Layout:
    """A kernel's shape with its axes by role, counted from the front, and the rank between."""

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rank: int

    def sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths of these axes."""
        return tuple(self.shape[axis] for axis in axes)

    @property
    def fan_in(self) -> int:
        """How many weights feed one output."""
        return math.prod(self.sizes(self.inputs))

    @property
    def fan_out(self) -> int:
        """How many outputs there are."""
        return math.prod(self.sizes(self.outputs))

    @property
    def a_shape(self) -> tuple[int, ...]:
        """The shape of `Factors.a`."""
        return (*self.sizes(self.batch), *self.sizes(self.inputs), self.rank)

    @property
    def b_shape(self) -> tuple[int, ...]:
        """The shape of `Factors.b`."""
        return (*self.sizes(self.batch), self.rank, *self.sizes(self.outputs))


def layout(
    shape: Sequence[int],
    rank: int,
    *,
    in_axis: AxisSpec = -2,
    out_axis: AxisSpec = -1,
    batch_axis: AxisSpec = (),
) -> Layout:
    """Gives every axis of a kernel its role; axes that are not named are inputs.

    Raises:
        ValueError: If an axis is not there or is declared twice, or if the rank exceeds what
            the kernel itself can have.
    """
    shape = tuple(shape)
    declared = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis}
    named = {name: _from_front(shape, name, axes) for name, axes in declared.items()}
    every = [axis for axes in named.values() for axis in axes]
    if len(set(every)) < len(every):
        raise ValueError(f"shape {shape}: an axis is declared twice in {declared}.")
    window = tuple(axis for axis in range(len(shape)) if axis not in every)
    inputs = (*window, *named["in_axis"])
    at = Layout(shape, named["batch_axis"], inputs, named["out_axis"], rank)
    if rank > min(at.fan_in, at.fan_out):
        raise ValueError(
            f"shape {shape} has {at.fan_in} inputs and {at.fan_out} outputs, so no more than rank "
            f"{min(at.fan_in, at.fan_out)}; the adapter has rank {rank}. Lower it, or declare "
            "the axes."
        )
    return at


def product(factors: Factors, at: Layout, like: Float[Array, "..."]) -> Float[Array, "..."]:
    """A B in the kernel's own axes, summed in float32 or wider, on a mesh where `like` is."""
    middle = len(at.shape)
    place = jax.typeof(like).sharding
    return jnp.einsum(
        factors.a,
        (*at.batch, *at.inputs, middle),
        factors.b,
        (*at.batch, middle, *at.outputs),
        tuple(range(middle)),
        preferred_element_type=wide(like.dtype),
        out_sharding=place if AxisType.Explicit in place.mesh.axis_types else None,
    )


def matrices(kernel: Float[Array, "..."], at: Layout) -> Float[Array, "*batch inputs outputs"]:
    """The kernel with its input axes in one and its output axes in one."""
    ordered = jnp.transpose(kernel, (*at.batch, *at.inputs, *at.outputs))
    return ordered.reshape(*at.sizes(at.batch), at.fan_in, at.fan_out)


def lengths(kernel: Float[Array, "..."], at: Layout) -> Float[Array, "..."]:
    """The Euclidean length of the weights of each output, with the input axes cut to 1."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=at.inputs, keepdims=True))


def apart(length: Float[Array, "..."], at: Layout) -> Float[Array, "..."]:
    """One number for each output, (batch…, outputs…), from what `lengths` gives."""
    order = np.argsort(np.argsort((*at.batch, *at.outputs))).tolist()
    return jnp.transpose(jnp.squeeze(length, at.inputs), order)


def beside(m: Float[Array, "..."], at: Layout) -> Float[Array, "..."]:
    """One number for each output in axes that broadcast against the kernel: undoes `apart`."""
    order = np.argsort((*at.batch, *at.outputs)).tolist()
    return jnp.expand_dims(jnp.transpose(m, order), at.inputs)


def wide(dtype: Any) -> Any:
    """What weights of this dtype are added up in: float32, or float64 for float64."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def _from_front(shape: tuple[int, ...], name: str, axes: AxisSpec) -> tuple[int, ...]:
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in axes:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"shape {shape} has no axis {axis} ({name}). An adapter joins an input and an "
                "output axis: declare them, or leave this leaf out."
            )
    return tuple(axis % len(shape) for axis in axes)
