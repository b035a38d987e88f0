"""Two searches for the k-th largest key, by counting passes.

`bisection` costs the same whatever the data: it suits vmap, meshes and accelerators.
`bracket` and `near` read a large array that lies on one device four to eight times.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, UInt32

from wlab.pruning.order import counts, ordered_keys

Keys: TypeAlias = Sequence[UInt32[Array, "..."]]
Found: TypeAlias = tuple[UInt32[Array, ""], Int32[Array, ""]]
Search: TypeAlias = Callable[[Keys, Int32[Array, ""], int], Found]

_SAMPLE = 1 << 16
_LINE = 16  # keys in 64 bytes


def bisection(keys: Keys, k: Int32[Array, ""], bits: int) -> Found:
    """Finds the largest key that at least `k` keys reach, two bits a pass, three thresholds each.

    Args:
        keys: Leaves of keys, counted together.
        k: From 0 to the number of keys.
        bits: The width of the keys; `bits / 2` passes are made.

    Returns:
        The key and how many keys reach it.
    """

    def narrow(index: Int32[Array, ""], found: Found) -> Found:
        low, reached_low = found
        shift = jnp.uint32(bits - 2) - jnp.uint32(2) * index.astype(jnp.uint32)
        reached = _count(keys, low + (jnp.array([1, 2, 3], jnp.uint32) << shift))
        enough = reached >= k
        low += jnp.sum(enough, dtype=jnp.uint32) << shift
        return low, jnp.min(jnp.where(enough, reached, reached_low))

    # Zeros made like the keys vary over the same devices under shard_map.
    zero = jnp.zeros_like(keys[0], shape=())
    return lax.fori_loop(0, bits // 2, narrow, (zero, zero.astype(jnp.int32) + _size(keys)))


def bracket(keys: Keys, k: Int32[Array, ""], bits: int) -> Found:
    """Finds a threshold for `k` keys from a sample of 65,536, then by rank interpolation.

    Stops as soon as exactly `k` keys reach the threshold. For arrays of a million entries
    and more on one device; under vmap it runs to the slowest member.
    """
    stride = _size(keys) // _SAMPLE | 1  # odd: never in step with a row
    sample = jnp.concatenate([_lines(leaf)[::stride].reshape(-1) for leaf in keys])
    share = k.astype(jnp.float32) / _size(keys)
    margin = 4 * jnp.sqrt(share * (1 - share) * sample.size) + 1
    ranks = share * sample.size + margin * jnp.array([1.0, 0.0, -1.0])
    ranks = jnp.clip(ranks.astype(jnp.int32), 1, sample.size)
    guess, _ = jax.vmap(lambda rank: bisection([sample], rank, bits))(ranks)
    return _narrow(keys, k, bits, guess)


def _lines(keys: UInt32[Array, "..."]) -> UInt32[Array, "lines line"]:
    """The keys as cache lines, which memory hands out whole; a rest that fills none is left out."""
    line = min(_LINE, max(keys.size, 1))
    return keys.reshape(-1)[: keys.size // line * line].reshape(-1, line)


def near(previous: Float[Array, ""]) -> Search:
    """Searches around the threshold of an earlier call, as `bracket` without the sample."""

    def search(keys: Keys, k: Int32[Array, ""], bits: int) -> Found:
        centre = ordered_keys(previous)
        reach = jnp.uint32(1 << bits * 5 // 8)  # of float32, a move by an eighth
        low, high = centre - jnp.minimum(centre, reach), centre + reach
        return _narrow(keys, k, bits, jnp.stack([low, centre, high]))

    return search


class _Bracket(NamedTuple):
    """At least k keys reach `low`, fewer reach `high`."""

    low: UInt32[Array, ""]
    high: UInt32[Array, ""]
    above_low: Int32[Array, ""]
    above_high: Int32[Array, ""]
    is_slow: Bool[Array, ""]  # the last pass shrank it less than four times


def _narrow(keys: Keys, k: Int32[Array, ""], bits: int, guess: UInt32[Array, " m"]) -> Found:
    top = jnp.uint32((1 << bits) - 1)  # above the key of NaN
    whole = _Bracket(jnp.uint32(0), top, jnp.int32(_size(keys)), jnp.int32(0), jnp.bool_(False))

    def is_open(state: _Bracket) -> Bool[Array, ""]:
        return (state.above_low != k) & (state.high - state.low > 1)

    def narrow(state: _Bracket) -> _Bracket:
        return _pass(keys, k, state, _thresholds(state, k))

    state = lax.while_loop(is_open, narrow, _pass(keys, k, whole, guess))
    return state.low, state.above_low


def _pass(
    keys: Keys, k: Int32[Array, ""], state: _Bracket, thresholds: UInt32[Array, " m"]
) -> _Bracket:
    thresholds = jnp.clip(thresholds, state.low + 1, state.high - 1)
    reached = _count(keys, thresholds, by_rows=True)
    enough = reached >= k
    low = jnp.max(jnp.where(enough, thresholds, state.low))
    high = jnp.min(jnp.where(enough, state.high, thresholds))
    return _Bracket(
        low=low,
        high=high,
        above_low=jnp.min(jnp.where(enough, reached, state.above_low)),
        above_high=jnp.max(jnp.where(enough, state.above_high, reached)),
        is_slow=(high - low) > (state.high - state.low) // 4,
    )


def _thresholds(state: _Bracket, k: Int32[Array, ""]) -> UInt32[Array, " m"]:
    """Equal parts after a slow pass, else points about the interpolated rank."""
    width = (state.high - state.low).astype(jnp.float32)
    inside = (state.above_low - state.above_high).astype(jnp.float32)
    middle = (state.above_low - k).astype(jnp.float32) / inside
    spread = 1 / jnp.sqrt(inside)  # two standard deviations of a rank among evenly spread keys
    fractions = jnp.where(
        state.is_slow,
        jnp.array([0.2, 0.4, 0.6, 0.8]),
        jnp.clip(middle + spread * jnp.array([-1.0, -0.2, 0.2, 1.0]), 0, 0.999),
    )
    return state.low + (fractions * width).astype(jnp.uint32)


def _count(
    keys: Keys, thresholds: UInt32[Array, " m"], *, by_rows: bool = False
) -> Int32[Array, " m"]:
    return sum((counts(leaf, thresholds, by_rows=by_rows) for leaf in keys), jnp.int32(0))


def _size(keys: Keys) -> int:
    return sum(leaf.size for leaf in keys)
