"""Levels for inputs from a histogram of what was met: counted batch by batch, added exactly."""

import re
from collections.abc import Mapping
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from wlab.graph import Statistic
from wlab.quantization.activations import Clip
from wlab.quantization.entropy import counted, kept_bins, whole
from wlab.tree import Rules, match

_LOWEST, _HIGHEST = 16, 240  # exponents whose ranges float32 divides into bins exactly
_NOT_FINITE = 255


def histogram(bins: int = 2048) -> Statistic:
    r"""Counts of the magnitudes of a weight's inputs, zeros left out: what `entropy_levels` needs.

    The bins are even, from 0 to the least power of two above all that was met. When a larger one
    comes, neighbours are put together. So batches and devices, in any order, give the counts that
    all inputs at once would give, exactly.

    An array of `bins` counts and, last, the exponent e of the range: it ends at
    $2^{e - 126}$. Below 2^31 inputs can be counted; sharded ones are gathered for it.

    Args:
        bins: A power of two, 2 to 65536.

    Raises:
        ValueError: If `bins` is none.
    """
    if not (2 <= bins <= 2**16 and bins & (bins - 1) == 0):
        raise ValueError(f"histogram: bins must be a power of two, 2 to 65536, got {bins}.")

    def measure(x: Float[Array, "*batch rows features"]) -> Int32[Array, "*batch cells"]:
        flat = jnp.abs(whole(x).astype(jnp.float32)).reshape(*x.shape[:-2], -1)
        exponent = jnp.max(_exponent(flat), axis=-1, initial=0)
        width = jnp.clip(exponent, _LOWEST, _HIGHEST) - 126 - (bins.bit_length() - 1)
        place = jnp.clip(flat * _power(-width)[..., None], 0, bins - 1).astype(jnp.int32)
        rows = (each.reshape(-1, flat.shape[-1]) for each in (place, flat > 0))
        counts = counted(*rows, bins=bins).reshape(*exponent.shape, bins)
        return jnp.concatenate([counts, exponent[..., None]], -1)

    return Statistic(measure, _together)


def entropy_levels(
    found: Mapping[str, Array], rules: Rules[Clip | None]
) -> dict[str, Float[Array, ""]]:
    """The level of least divergence for the inputs of each leaf with a clip: a static range.

    Where `levels_of` keeps all that was met, this leaves out what costs more to keep, by
    `kept_bins`; for `fake_quant_inputs`. Of inputs that are all zero the level is 0.

    Args:
        found: From `calibration.collect(fn, params, batches, histogram())`.
        rules: As given to `fake_quant_inputs`; those for leaves that were not met are left out.

    Raises:
        ValueError: If a leaf has no rule, its inputs held NaN or infinity, or its clip has more
            than half as many steps as there are bins.

    Reference:
        Migacz 2017, "8-bit inference with TensorRT", GPU Technology Conference.
    """
    used = [(regex, clip) for regex, clip in rules if any(re.fullmatch(regex, p) for p in found)]
    clips = match(used, list(found), purpose="clip")
    return {path: _level(path, found[path], clip) for path, clip in clips.items() if clip}


def _level(path: str, cells: Array, clip: Clip) -> Float[Array, ""]:
    cells = reduce(_together, cells.reshape(-1, cells.shape[-1]))
    exponent, counts = int(cells[-1]), cells[:-1]
    if exponent == _NOT_FINITE:
        raise ValueError(
            f"entropy_levels: the inputs of {path!r} hold NaN or infinity. Look at the data, and "
            "at the layers before."
        )
    if not np.any(np.asarray(counts)):
        return jnp.zeros(())
    part = int(kept_bins(counts, levels=clip.steps + 1)) / counts.shape[0]
    end = 2.0 ** (min(max(exponent, _LOWEST), _HIGHEST) - 126)
    return jnp.float32(part * end)


def _together(one: Int32[Array, "*batch cells"], other: Int32[Array, "*batch cells"]) -> Array:
    exponent = jnp.maximum(one[..., -1], other[..., -1])
    counts = _coarser(one, exponent) + _coarser(other, exponent)
    return jnp.concatenate([counts, exponent[..., None]], -1)


def _coarser(cells: Int32[Array, "*batch cells"], exponent: Array) -> Int32[Array, "*batch bins"]:
    """The counts in bins of a range that is a power of two longer."""
    bins = cells.shape[-1] - 1
    ends = [jnp.clip(each, _LOWEST, _HIGHEST) for each in (exponent, cells[..., -1])]
    shift = jnp.minimum(ends[0] - ends[1], bins.bit_length() - 1)[..., None]
    edges = jnp.arange(bins + 1, dtype=jnp.int32).reshape((1,) * (cells.ndim - 1) + (-1,))
    edges = jnp.minimum(jnp.left_shift(*jnp.broadcast_arrays(edges, shift)), bins)
    below = jnp.pad(jnp.cumsum(cells[..., :-1], -1), [(0, 0)] * (cells.ndim - 1) + [(1, 0)])
    return jnp.diff(jnp.take_along_axis(below, edges, -1), axis=-1)


def _exponent(magnitudes: Float[Array, "..."]) -> Int32[Array, "..."]:
    """Of the least power of two above each, plus 126; 255 of what is not finite."""
    return jax.lax.bitcast_convert_type(magnitudes, jnp.int32) >> 23


def _power(exponent: Int32[Array, "..."]) -> Float[Array, "..."]:
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
