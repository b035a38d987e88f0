"""The factors of a leaf, taken from those of the file's kernels and put back."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from wlab.pretrained.adapters.seats import Axes, Index, Seat
from wlab.transfer import Adapter, Factors, fresh_factors, pissa


class Matrices(NamedTuple):
    """The factors of one kernel of the file, its axes read as inputs and outputs.

    Attributes:
        a: As `Factors.a`.
        b: As `Factors.b`.
        m: As `Factors.m`; NaN where a part of the kernel does not say.
    """

    a: Float[np.ndarray, "inputs rank"]
    b: Float[np.ndarray, "rank outputs"]
    m: Float[np.ndarray, " outputs"] | None = None


def roles(seat: Seat, *, inputs_first: bool) -> tuple[Index, Index]:
    """The inputs and the outputs."""
    return (seat.first, seat.second) if inputs_first else (seat.second, seat.first)


def with_axes(adapter: Adapter, seat: Seat, *, inputs_first: bool) -> Adapter:
    """The adapter with the axes of a leaf, where they are not the usual ones."""
    inputs, outputs = roles(seat, inputs_first=inputs_first)
    if (inputs.axes, outputs.axes, seat.kernel.axes) == ((0,), (1,), ()):
        return adapter
    axes = {"in_axis": inputs.axes, "out_axis": outputs.axes, "batch_axis": seat.kernel.axes}
    return replace(adapter, **axes)


def seated(
    seat: Seat, kernels: Sequence[Matrices], adapter: Adapter, kernel: Any, *, inputs_first: bool
) -> Factors:
    """The factors of one leaf: its rows and columns of those of its move's kernels.

    Args:
        seat: The leaf's place among them.
        kernels: The factors of each.
        adapter: With the leaf's axes.
        kernel: The leaf.
        inputs_first: Whether the file's rows are inputs.

    Raises:
        ValueError: If the rank is too large, or lengths are told of outputs that are not whole.
    """
    inputs, outputs = (i.at.reshape(-1) for i in roles(seat, inputs_first=inputs_first))
    held = [kernels[k] for k in seat.kernel.at.reshape(-1)]
    at = adapter.layout(kernel.shape)
    if adapter.magnitude and any(len(inputs) < len(part.a) for part in held):
        raise ValueError("DoRA sets the length of whole outputs, and it has a part of their inputs")
    dtype = kernel.dtype if adapter.dtype is None else adapter.dtype
    lengths = [part.m[outputs] for part in held if part.m is not None]
    sizes = (*at.sizes(at.batch), *at.sizes(at.outputs))
    return Factors(
        jnp.asarray(np.stack([x.a[inputs] for x in held]).reshape(at.a_shape), dtype),
        jnp.asarray(np.stack([x.b[:, outputs] for x in held]).reshape(at.b_shape), dtype),
        jnp.asarray(np.stack(lengths).reshape(sizes), dtype) if lengths else None,
    )


def reads_inputs_first(seat: Seat, adapter: Adapter, shape: Axes) -> bool:
    """Whether an adapter takes the file's rows for inputs.

    Raises:
        ValueError: If it takes neither rows nor columns for them.
    """
    at = adapter.layout(shape)
    said = [{i for i in axes if shape[i] > 1} for axes in (at.batch, at.inputs, at.outputs)]
    batch, first, second = (set(index.axes) for index in seat)
    if said == [batch, second, first]:
        return False
    if said == [batch, first, second]:
        return True
    raise ValueError("the adapter joins other axes than the file's kernel has")


def unseated(
    seat: Seat,
    factors: Factors,
    adapter: Adapter,
    shape: Axes,
    *,
    sizes: Sequence[tuple[int, int]],
    inputs_first: bool,
) -> dict[int, Matrices]:
    """What a leaf's factors are in each kernel of its move; zero where that is not the leaf.

    Args:
        seat: The leaf's place among them.
        factors: The leaf's.
        adapter: The leaf's.
        shape: The leaf's.
        sizes: Rows and columns of each kernel.
        inputs_first: Whether the file's rows are inputs.
    """
    inputs, outputs = (i.at.reshape(-1) for i in roles(seat, inputs_first=inputs_first))
    a, b, m = _flat(factors, adapter, shape)
    found: dict[int, Matrices] = {}
    for i, k in enumerate(seat.kernel.at.reshape(-1)):
        rows, columns = sizes[k]
        num_in, num_out = (rows, columns) if inputs_first else (columns, rows)
        part = Matrices(
            np.zeros((num_in, a.shape[2]), a.dtype),
            np.zeros((b.shape[1], num_out), b.dtype),
            None if m is None else np.full(num_out, np.nan, m.dtype),
        )
        part.a[inputs], part.b[:, outputs] = a[i], b[i]
        if part.m is not None and m is not None and len(inputs) == num_in:
            part.m[outputs] = m[i]
        found[int(k)] = part
    return found


def on_the_kernel(factors: Factors, adapter: Adapter, kernel: Any) -> Factors:
    """The same change as one of the given kernel, where the base is what `pissa` left of it.

    The start that was taken out is put back as further columns, so the rank doubles.
    """
    if adapter.start is not pissa:
        return factors
    begun = fresh_factors(jax.random.key(0), kernel, adapter)
    rank_axis = len(adapter.layout(kernel.shape).batch)
    return factors._replace(
        a=jnp.concatenate([factors.a, begun.a], axis=-1),
        b=jnp.concatenate([factors.b, -begun.b], axis=rank_axis),
    )


def _flat(factors: Factors, adapter: Adapter, shape: Axes) -> tuple[Any, Any, Any]:
    """a (batch, inputs, rank), b (batch, rank, outputs), m (batch, outputs); axes ascending."""
    at = adapter.layout(shape)
    batch, inputs, outputs = ([*map(int, np.argsort(x))] for x in (at.batch, at.inputs, at.outputs))
    n, rank = len(batch), factors.a.shape[-1]
    a, b = np.asarray(factors.a), np.asarray(factors.b)
    a = a.transpose(*batch, *(n + i for i in inputs), a.ndim - 1)
    b = b.transpose(*batch, n, *(n + 1 + i for i in outputs))
    stacked = prod(at.sizes(at.batch))
    a, b = a.reshape(stacked, -1, rank), b.reshape(stacked, rank, -1)
    if factors.m is None:
        return a, b, None
    m = np.asarray(factors.m).transpose(*batch, *(n + i for i in outputs))
    return a, b, m.reshape(stacked, -1)
