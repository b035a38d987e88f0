"""Relative positions: classes of the distance from a query to a key."""

import math

import numpy as np
from jaxtyping import Int


def refuse_classes(buckets: int, longest: int) -> None:
    """Raises ValueError if `distance_buckets` cannot make so many classes."""
    if buckets < 4 or buckets % 2:
        raise ValueError(f"buckets must be even and at least 4, got {buckets}.")
    if longest <= buckets // 2:
        raise ValueError(
            f"longest ({longest}) must be more than half of buckets ({buckets}): so many stand for "
            "one distance each."
        )


def distance_buckets(
    queries: int, keys: int, *, buckets: int, longest: int, causal: bool
) -> Int[np.ndarray, "queries keys"]:
    r"""The class of the distance from each query to each key.

    Of $n$ classes one half stands for one distance each, from 0, and the other for ranges that
    grow with the logarithm of the distance, up to `longest`. A causal decoder has
    $n = \mathrm{buckets}$ classes of keys at or before the query; else these have the first half
    and the keys behind it the second, $n = \mathrm{buckets}/2$ each.

    Args:
        queries: Their number; the first stands beside the first key.
        keys: Their number.
        buckets: Number of classes.
        longest: The distance, tokens, from which on all belong to the last class.
        causal: Whether keys behind the query are of no interest; their class is 0.

    Reference:
        Raffel et al. 2020 (arXiv:1910.10683), §2.1.
    """
    ahead = np.arange(keys)[None] - np.arange(queries)[:, None]
    distance = np.maximum(-ahead, 0) if causal else np.abs(ahead)
    count = buckets if causal else buckets // 2
    single = count // 2
    growth = np.log(np.maximum(distance, single) / single) / math.log(longest / single)
    ranged = np.minimum(single + (growth * (count - single)).astype(np.int32), count - 1)
    near = np.where(distance < single, distance, ranged)
    return (near if causal else near + count * (ahead > 0)).astype(np.int32)
