"""AWQ on matrices: which inputs to magnify before rounding, and where to cut off weights."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wlab.calibration import energy
from wlab.quantization.arrays import round_to_grid
from wlab.quantization.formats import Format
from wlab.quantization.ranges import RangeFn, absmax

Matrix: TypeAlias = Float[Array, "batch inputs outputs"]
Square: TypeAlias = Float[Array, "batch inputs inputs"]
Rows: TypeAlias = Int[Array, "batch inputs"]

_LEAST = 1e-4  # of the largest factor


class Reader(NamedTuple):
    """A leaf that reads inputs which are to be scaled: a batch of matrices, of one at least.

    Attributes:
        kernel: Weights, in float32.
        gram: XᵀX.
        rows: Which factor each input has, counted from 1; 0 for none.
    """

    kernel: Matrix
    gram: Square
    rows: Rows


class Searched(NamedTuple):
    """The best factors of a search.

    Attributes:
        scale: s.
        power: α.
        losses: Of each power on the grid, from α = 0, which is plain rounding, on.
    """

    scale: Float[Array, " size"]
    power: Float[Array, ""]
    losses: Float[Array, " grid"]


def awq_scale(
    readers: Sequence[Reader],
    formats: Sequence[Format],
    mean: Float[Array, " size"],
    *,
    grid: int = 20,
    range_fn: RangeFn = absmax,
) -> Searched:
    r"""Finds the power of the mean input that loses least when weights are scaled and rounded.

    $s = \mathrm{E}|x|^\alpha / \sqrt{\max s \cdot \min s}$, with the $\alpha \in \{0, 1/n, …\}$ of
    the least $\sum \|X W - X \mathrm{diag}(1/s) Q(\mathrm{diag}(s) W)\|^2$ over all that read these
    inputs; the first of equals. It is computed from $X^\top X$.

    Args:
        readers: Leaves that read the inputs.
        formats: Of each leaf's matrices.
        mean: E|x| for each factor. What is less than 1e-4 of the largest counts as that.
        grid: n, how many powers are tried, below 1.
        range_fn: See `quantize`.

    Reference:
        Lin et al. 2023 (arXiv:2306.00978), equations 4 and 5; the scale of s as in the authors'
        program.
    """
    powers = jnp.arange(grid, dtype=jnp.float32) / grid

    def loss(power: Array) -> Float[Array, ""]:
        s = scale_of(mean, power)
        pairs = zip(readers, formats, strict=True)
        return jnp.sum(jnp.stack([_lost(each, format, s, range_fn) for each, format in pairs]))

    losses = jax.lax.map(loss, powers)
    best = powers[jnp.argmin(losses)]
    return Searched(scale_of(mean, best), best, losses)


def scale_of(mean: Float[Array, " size"], power: Float[Array, ""]) -> Float[Array, " size"]:
    """Mean magnitudes to a power, such that the largest factor is the inverse of the smallest."""
    largest = jnp.max(mean, initial=0)
    s = jnp.maximum(mean / jnp.where(largest > 0, largest, 1), _LEAST) ** power
    return s / jnp.sqrt(jnp.max(s) * jnp.min(s))


def _lost(each: Reader, format: Format, s: Array, range_fn: RangeFn) -> Float[Array, ""]:
    factor = jnp.concatenate([jnp.ones(1), s])[each.rows][..., None]
    rounded = _rounded(each.kernel * factor, format, range_fn) / factor
    return jnp.sum(jax.vmap(energy)(each.kernel - rounded, each.gram))


def _rounded(kernel: Matrix, format: Format, range_fn: RangeFn) -> Matrix:
    return jax.vmap(lambda matrix: round_to_grid(matrix, format, range_fn=range_fn))(kernel)


def awq_clip(
    kernel: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    format: Format,
    *,
    grid: int = 20,
    least: float = 0.5,
    range_fn: RangeFn = absmax,
) -> Float[Array, "inputs outputs"]:
    r"""Cuts off the largest weights of each block where that loses less when it is rounded.

    Each block's largest magnitude times the factor in $\{1, 1 - 1/n, …\}$ of the least
    $\|X_g (w_g - Q(\mathrm{clip}(w_g)))\|^2$, of the block's own inputs; the first of equals. All
    blocks stay as they are if together they lose more.

    Args:
        kernel: Weights, in float32.
        gram: XᵀX.
        format: With scales along the inputs alone.
        grid: n.
        least: The factors are larger than this.
        range_fn: See `quantize`.

    Raises:
        ValueError: If scales span anything but inputs.

    Reference:
        Lin et al. 2023 (arXiv:2306.00978): the search for a range, as in the authors' program.
    """
    refuse_other_axes(format)
    groups = format.groups(kernel.shape)
    group = np.arange(len(kernel)) // (groups[0][1] if groups else len(kernel))
    count = int(group[-1]) + 1
    near = jnp.where(group[:, None] == group[None], gram, 0)
    top = jax.ops.segment_max(jnp.abs(kernel), group, count)

    def cut(factors: Array) -> Float[Array, "inputs outputs"]:
        limit = (top * factors)[group]
        return jnp.clip(kernel, -limit, limit)

    def lost(factor: Array) -> Float[Array, "count outputs"]:
        change = kernel - round_to_grid(cut(factor), format, range_fn=range_fn)
        product = jnp.matmul(near, change, precision=jax.lax.Precision.HIGHEST)
        return jax.ops.segment_sum(change * product, group, count)

    factors = 1 - jnp.arange(round(grid * (1 - least)), dtype=jnp.float32) / grid
    chosen = cut(factors[jnp.argmin(jax.lax.map(lost, factors), axis=0)])
    before, after = (
        energy(kernel - round_to_grid(x, format, range_fn=range_fn), gram) for x in (kernel, chosen)
    )
    return jnp.where(after < before, chosen, kernel)


def refuse_other_axes(format: Format) -> None:
    """Raises a ValueError unless scales of a matrix of inputs by outputs span inputs alone."""
    if format.axes(2) != (0,):
        raise ValueError(f"awq_clip takes scales along axis -2, the inputs; got {format}.")
