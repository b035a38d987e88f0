"""Weights that share a few values: the codebook that k-means finds in one dimension."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from wlab.quantization.codebooks import Codebook
from wlab.quantization.formats import Format


def kmeans(
    x: Float[Array, "*shape"],
    count: int,
    *,
    where: Bool[Array, "*shape"] | None = None,
    iterations: int = 100,
) -> Float[Array, " count"]:
    r"""Ascending centroids of the entries, by Lloyd's iterations from evenly spaced ones.

    $\min_c \sum_i \min_k |w_i - c_k|^2$, from $c_k$ evenly spaced between the smallest entry and
    the largest, which keeps the few large weights represented. A centroid that no entry is
    nearest to stays where it is.

    Args:
        x: The entries, at least one and all finite; else the centroids are NaN.
        count: Centroids.
        where: Which entries count; all if None.
        iterations: How often entries are assigned anew.

    Raises:
        ValueError: If `count` or `iterations` is less than 1.

    Reference:
        Han, Mao, Dally 2016 (arXiv:1510.00149), section 3, equation 2, and section 3.1 for the
        linear initialization.
    """
    if count < 1 or iterations < 1:
        raise ValueError(
            f"kmeans takes a count and iterations of 1 or more, got {count}, {iterations}."
        )
    entries = x.reshape(-1).astype(jnp.float32)
    counted = jnp.ones(entries.shape, bool) if where is None else where.reshape(-1)
    low = jnp.min(entries, where=counted, initial=jnp.inf)
    high = jnp.max(entries, where=counted, initial=-jnp.inf)
    start = low + (high - low) * jnp.linspace(0, 1, count, dtype=jnp.float32)

    def again(centroids: Array, _: None) -> tuple[Array, None]:
        codes = nearest_code(entries, centroids)
        total = jnp.zeros(count).at[codes].add(jnp.where(counted, entries - low, 0))
        members = jnp.zeros(count, jnp.int32).at[codes].add(counted.astype(jnp.int32))
        mean = low + total / jnp.maximum(members, 1).astype(jnp.float32)
        return jnp.where(members > 0, mean, centroids), None

    return jax.lax.scan(again, start, None, length=iterations)[0]


def nearest_code(
    x: Float[Array, "*shape"], centroids: Float[Array, " count"]
) -> Int[Array, "*shape"]:
    """The place of the ascending centroid nearest to each entry; the lower of two."""
    middles = (centroids[1:] + centroids[:-1]) / 2
    return jnp.searchsorted(middles, x.astype(jnp.float32), side="left").astype(jnp.int32)


def shared_weights(
    x: Float[Array, "*shape"], bits: int, *, keep_zero: bool = False, iterations: int = 100
) -> Format:
    """The format whose grid is the k-means codebook of an array: 2^bits values, one scale.

    It is found once, on the host; in training its values move together, with the largest weight.

    Args:
        x: The weights the values are to fit.
        bits: Bits of a code, 1 to 8.
        keep_zero: Makes zero one of the values, so that pruned weights stay zero; the others
            fit the rest.
        iterations: See `kmeans`.

    Raises:
        ValueError: If `bits` is out of range, or the weights are not finite or of one value.

    Reference:
        Han, Mao, Dally 2016 (arXiv:1510.00149), section 3: quantization by weight sharing.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"shared_weights: bits must be 1 to 8, got {bits}.")
    array = np.asarray(x, np.float32)
    end = float(np.abs(array).max(initial=0))
    if not np.isfinite(end) or end == 0:
        raise ValueError(f"shared_weights: the largest magnitude is {end}; nothing to share.")
    where = jnp.asarray(array != 0) if keep_zero else None
    count = 2**bits - (1 if keep_zero else 0)
    found = np.asarray(kmeans(jnp.asarray(array), count, where=where, iterations=iterations))
    relative = np.clip(found / np.float32(end), -1, 1)
    values = np.unique(np.append(relative, 0) if keep_zero else relative)
    if len(values) < 2:
        raise ValueError("shared_weights: all weights have one value; leave this leaf alone.")
    return Format(Codebook(tuple(values.tolist()), f"shared {bits} bits", end=1.0), axis=None)
