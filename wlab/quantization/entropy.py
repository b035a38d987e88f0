"""Ranges whose rounded histogram tells the least from the true one: Kullback–Leibler."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from wlab.quantization.formats import Format
from wlab.quantization.grids import Blocks, Integers
from wlab.quantization.ranges import Axes, RangeFn, absmax


def entropy(bins: int = 2048) -> RangeFn:
    r"""The part of `absmax` that loses the least information: each block's own histogram.

    The magnitudes of a block are counted in even bins from 0 to `absmax`, and `kept_bins` says
    where the range should end. It ends there on both sides; what is beyond saturates.

    It is made for few levels or for many entries, some dozens a bin: a block of 4,096 normal
    weights with 128 levels is cut at 0.9 of `absmax`, and off by more than it was.

    Zeros are not counted, as a symmetric grid has them exactly: so neither pruned weights nor
    what fills up a short last group change the range. A block of a few entries keeps all of
    them, since bins with one entry each are told apart by any grid. Two ranges whose divergences
    agree to rounding may be told apart differently by differently compiled programs. Blocks that
    are sharded are gathered to be counted.

    Args:
        bins: Of a histogram; at least twice the levels of the grid's one side.

    Raises:
        ValueError: If `bins` is not positive; from the range, if the grid is not one of symmetric
            integers or has too many levels for so few bins.

    Reference:
        Migacz 2017, "8-bit inference with TensorRT", GPU Technology Conference.
    """
    if bins < 1:
        raise ValueError(f"entropy: bins must be positive, got {bins}.")

    def range_fn(x: Blocks, axes: Axes, format: Format) -> tuple[Blocks, Blocks]:
        grid = format.grid
        if not (isinstance(grid, Integers) and grid.symmetric):
            raise ValueError(
                f"entropy takes a grid of symmetric integers, got {format}; "
                "percentile and mse take any."
            )
        levels = int(grid.steps) + 1
        _refuse_few(bins, levels)
        low, high = absmax(x, axes, format)
        counts = _counted(jnp.abs(x), jnp.maximum(-low, high), axes, bins=bins)
        part = kept_bins(counts, levels=levels).astype(jnp.float32)
        part = part.reshape(low.shape) * np.float32(1 / bins)
        return low * part, high * part

    return range_fn


def kept_bins(counts: Int[Array, "*batch bins"], *, levels: int) -> Int[Array, "*batch"]:
    r"""How many bins of a histogram, from the first, a range should keep.

    Of the first i bins P is the histogram with all that is beyond counted in bin i, and Q the
    same without it, rounded to n levels: level l has the bins from ⌊l·i/n⌋ on, and each of those
    that P has entries in gets an equal share of the level. The result is the i from n to the
    number of bins with the least

    $D(P \| Q) = \sum_j P_j \log (P_j / Q_j)$,

    both normalized; of equals the largest. A Q without entries where P has some is out of the
    question, and so are bins beyond the last entry, if n are left. With no entries at all, all
    bins are kept.

    Args:
        counts: Of magnitudes in even bins from zero on; below 2^31 in all.
        levels: n, those of the range from zero to its end: 128 of signed 8 bits.

    Raises:
        ValueError: If there are fewer bins than twice the levels.

    Reference:
        Migacz 2017, "8-bit inference with TensorRT", GPU Technology Conference: entropy
        calibration. There the last level also has the bins that a division leaves over, and the
        range ends half a bin later.
    """
    bins = counts.shape[-1]
    _refuse_few(bins, levels)
    flat = counts.reshape(-1, bins)
    kept = jax.vmap(partial(_least, levels=levels))(flat)
    return kept.reshape(counts.shape[:-1])


def _refuse_few(bins: int, levels: int) -> None:
    if bins < 2 * levels:
        raise ValueError(f"{levels} levels need {2 * levels} bins or more, got {bins}.")


def _least(counts: Int[Array, " bins"], *, levels: int) -> Int[Array, ""]:
    bins = counts.shape[0]
    total = jnp.maximum(jnp.sum(counts), 1).astype(jnp.float32)
    each = counts.astype(jnp.float32) / total
    below, filled = _sums_below(counts), _sums_below((counts > 0).astype(jnp.int32))
    terms = _sums_below(_xlogx(each))
    longest = jnp.maximum(bins - jnp.argmax(counts[::-1] > 0), levels)

    def divergence(kept: Int[Array, ""]) -> Float[Array, ""]:
        edges = jnp.arange(levels + 1) * kept // levels
        beyond = (below[-1] - below[kept]).astype(jnp.float32) / total
        last = each[kept - 1]
        entries = jnp.diff(below[edges]).astype(jnp.float32) / total
        places = jnp.diff(filled[edges])
        opened = (last == 0) & (beyond > 0)  # a bin that has only what is beyond
        places = places.at[-1].add(opened.astype(jnp.int32))
        shares = entries / jnp.maximum(places, 1).astype(jnp.float32)
        logs = jnp.log(jnp.where(shares > 0, shares, 1))
        own = terms[kept] - _xlogx(last) + _xlogx(last + beyond)
        crossed = jnp.sum(entries * logs) + beyond * logs[-1]
        inside = below[kept].astype(jnp.float32) / total
        found = own - crossed + jnp.log(inside)
        possible = (kept <= longest) & (inside > 0) & ((beyond == 0) | (shares[-1] > 0))
        return jnp.where(possible, found, jnp.inf)

    def try_next(best: tuple[Array, Array], kept: Array):
        found = divergence(kept)
        better = found < best[1]
        return (jnp.where(better, kept, best[0]), jnp.where(better, found, best[1])), None

    start = (jnp.int32(bins), jnp.float32(jnp.inf))
    (kept, _), _ = jax.lax.scan(try_next, start, jnp.arange(bins, levels - 1, -1, jnp.int32))
    return kept


def _counted(
    magnitudes: Blocks, end: Blocks, axes: Axes, *, bins: int
) -> Int[Array, "blocks bins"]:
    """How many entries of each block, but zeros, are in each of even bins from 0 to `end`."""
    magnitudes, end = whole(magnitudes), whole(end)
    place = jnp.floor(magnitudes / jnp.where(end > 0, end, 1) * bins)
    place = jnp.clip(place, 0, bins - 1).astype(jnp.int32)
    others = [axis for axis in range(place.ndim) if axis not in axes]
    order, blocks = (*others, *axes), end.size
    rows = (each.transpose(order).reshape(blocks, -1) for each in (place, magnitudes > 0))
    return counted(*rows, bins=bins)


def counted(
    place: Int[Array, "rows n"], one: Bool[Array, "rows n"], *, bins: int
) -> Int[Array, "rows bins"]:
    """How many entries of each row are at each place, of those that count."""
    cells = jax.vmap(lambda at, n: jnp.zeros(bins, jnp.int32).at[at].add(n))
    return cells(place, one.astype(jnp.int32))


def whole(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x`, gathered if an Explicit mesh shards it."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def _sums_below(x: Array) -> Array:
    """At i the sum of the first i entries."""
    return jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(x)])


def _xlogx(x: Array) -> Array:
    return x * jnp.log(jnp.where(x > 0, x, 1))
