"""HQQ: grids are moved, without any data, to where small errors are many and large ones few."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from wlab.quantization.arrays import fitted, quantize_on
from wlab.quantization.blocks import reduced
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.grids import Blocks, Fit, reciprocal
from wlab.quantization.packing import pack, unpack
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import Axes, RangeFn, absmax
from wlab.quantization.scales import round_minimum
from wlab.quantization.sharding import spread


class _Search(NamedTuple):
    turn: Int[Array, ""]
    minimum: Blocks  # of this turn
    error: Float[Array, ""]  # of all blocks, with that
    falls: Bool[Array, ""]
    best: Blocks  # of each block
    least: Blocks


def hqq(
    x: Float[Array, "*shape"],
    format: Format,
    *,
    range_fn: RangeFn = absmax,
    power: float | int = 0.7,
    beta: float | int = 10.0,
    kappa: float | int = 1.01,
    iterations: int = 20,
) -> QTensor:
    r"""Writes each weight on a grid whose minimum was moved: half-quadratic quantization.

    $\min_m \phi(w - Q_m(w))$, where $\phi = |\cdot|^p$ with p below 1 forgives a few large errors.
    Scales stay as they are. In turns, with the codes q and the error e of this minimum,

    $$h = \mathrm{sign}(e) \max(|e| - |e|^{p - 1} / \beta, 0) \qquad
    m \leftarrow \mathrm{mean}(w - h - q s) \qquad \beta \leftarrow \kappa \beta$$

    until the mean |e| of the array no longer falls; h is what is forgiven of e. Each block then
    gets the minimum of its least mean |e|, its first one among them: none is worse than before.

    Errors are taken in steps of the grid, which makes the result that of `x` in any unit. The
    authors' program takes them in the unit of the weights; where those are small, h is zero there.

    Short last groups are an array of their own: what they become depends on them alone.

    Args:
        x: The array. A NaN or an infinity makes its block NaN, and does not touch the others.
        format: One that stores its minimum: `Integers(bits, symmetric=False, zero="minimum")`.
        range_fn: Where grids are at first.
        power: p, above 0, at most 1.
        beta: Of the first turn; the larger, the more is forgiven and the less minima move.
        kappa: At least 1.
        iterations: How many turns at most.

    Raises:
        TypeError: If x is not floating point.
        ValueError: If the format stores no minimum, x can't take it, or a number is out of range.

    Reference:
        Badri, Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
    """
    _refuse(format, power, beta, kappa, iterations)
    check_hqq_leaf(x, format)
    numbers = {"power": power, "beta": beta, "kappa": kappa, "iterations": iterations}
    for axis, size in format.groups(x.shape):
        if x.shape[axis] % size:
            whole = x.shape[axis] // size * size
            parts = jnp.split(spread(x, axis, 1), [whole], axis)
            return _joined(
                [hqq(part, format, range_fn=range_fn, **numbers) for part in parts], axis
            )
    stored = replace(format, coding="stored")
    blocks, grids = fitted(x, stored, range_fn)
    scale, minimum, _ = grids.parts
    best = _search(blocks, Fit(scale, minimum), reduced(format, x.ndim), stored, **numbers)
    return quantize_on(x, grids.parts._replace(zero_point=best), format)


def check_hqq_leaf(leaf: Any, format: Format, name: str = "array") -> None:
    """`check_leaf`, but a short last group is no harm: `hqq` fills up none.

    Raises:
        TypeError: As `check_leaf`.
        ValueError: As `check_leaf`.
    """
    shape = jnp.shape(leaf)
    try:
        sizes = dict(format.groups(shape))
    except ValueError:
        sizes = {}  # what is wrong is said below
    whole = tuple(n - n % sizes.get(axis, 1) for axis, n in enumerate(shape))
    check_leaf(jax.ShapeDtypeStruct(whole, jnp.result_type(leaf)), format, name)


def shrink(
    x: Float[Array, "..."], power: float | int, beta: Float[Array, ""]
) -> Float[Array, "..."]:
    r"""Shrinks errors, small ones to zero: $\mathrm{sign}(x) \max(|x| - |x|^{p - 1} / \beta, 0)$.

    With p = 1 this is soft thresholding; the smaller p, the less large errors shrink.
    """
    size = jnp.abs(x)
    return jnp.sign(x) * jnp.maximum(size - size ** np.float32(power - 1) / beta, 0)


def _search(blocks: Blocks, start: Fit, axes: Axes, format: Format, **numbers: Any) -> Blocks:
    """The minimum of each block that has the least mean |e|, of those the turns come to."""

    def written(minimum: Blocks) -> tuple[Blocks, Blocks, Blocks]:
        grid = start._replace(zero_point=minimum)
        codes = format.grid.encode(blocks, grid)
        left = blocks - format.grid.decode(codes, grid)
        return codes, left, jnp.mean(jnp.abs(left), axes, keepdims=True)

    def turn(now: _Search) -> _Search:
        codes, left, _ = written(now.minimum)
        turns = now.turn.astype(jnp.float32)
        beta = np.float32(numbers["beta"]) * np.float32(numbers["kappa"]) ** turns
        spared = shrink(left * reciprocal(start.scale), numbers["power"], beta) * start.scale
        mean = jnp.mean(blocks - spared - codes * start.scale, axes, keepdims=True)
        minimum = round_minimum(mean, format.scale_dtype)
        _, _, errors = written(minimum)
        error, better = _total(errors), errors < now.least
        best, least = jnp.where(better, minimum, now.best), jnp.where(better, errors, now.least)
        return _Search(now.turn + 1, minimum, error, error < now.error, best, least)

    def goes_on(now: _Search) -> Bool[Array, ""]:
        return now.falls & (now.turn < numbers["iterations"])

    minimum = start.zero_point
    _, _, errors = written(minimum)
    first = _Search(jnp.int32(0), minimum, _total(errors), jnp.array(True), minimum, errors)
    return jax.lax.while_loop(goes_on, turn, first).best


def _joined(parts: Sequence[QTensor], axis: int) -> QTensor:
    """Arrays one behind the other along an axis."""
    first, format = parts[0], parts[0].format
    bits, order = format.grid.bits, format.order
    codes = jnp.concatenate([unpack(q.codes, bits, q.length, order) for q in parts], axis)
    return replace(
        first,
        codes=pack(codes, bits, order),
        scale=jnp.concatenate([q.scale for q in parts], axis),
        zero_point=jnp.concatenate([q.zero_point for q in parts], axis),
        length=codes.shape[-1],
    )


def _total(errors: Blocks) -> Float[Array, ""]:
    return jnp.sum(jnp.where(jnp.isfinite(errors), errors, 0))


def _refuse(
    format: Format, power: float | int, beta: float | int, kappa: float | int, iterations: int
) -> None:
    if format.grid.reach != "free":
        raise ValueError(
            f"hqq moves the minimum of a grid, and {format} stores none; take "
            'Format(Integers(bits, symmetric=False, zero="minimum"), …).'
        )
    if not (0 < power <= 1 and beta > 0 and kappa >= 1 and iterations >= 1):
        raise ValueError(
            f"hqq takes power in (0, 1], beta above 0, kappa and iterations of 1 or more; got "
            f"power={power}, beta={beta}, kappa={kappa}, iterations={iterations}."
        )
