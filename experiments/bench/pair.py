"""Times two functions against each other, alternating in one process.

What slows the machine for a moment slows both of a pair, so the ratio within a pair is steadier
than either time; the median of the ratios is reported, with a bootstrap interval.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

Thunk: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """What was measured of a pair.

    Attributes:
        ratio: The median over pairs of contender / baseline.
        low: The lower end of its 95 % bootstrap interval.
        high: The upper end.
        median_s: The contender's median, in seconds.
        baseline_s: The baseline's median, in seconds.
        iqr: The distance between the quartiles of the ratios.
        pairs: How many pairs were timed.
    """

    ratio: float
    low: float
    high: float
    median_s: float | None
    baseline_s: float | None
    iqr: float
    pairs: int


def time_pairs(contender: Thunk, baseline: Thunk, *, pairs: int, warm_up: int = 3) -> Timing:
    """Runs both in turn, in random order within each pair, and waits for every result.

    Args:
        contender: Does its work anew at each call.
        baseline: Likewise.
        pairs: How many pairs are timed.
        warm_up: Pairs before those, which compile and are not counted.

    Raises:
        ValueError: If `pairs` is below 1.
    """
    if pairs < 1:
        raise ValueError(f"A bench needs at least 1 pair, got {pairs}.")
    both, rng = (contender, baseline), np.random.default_rng(0)
    for _ in range(warm_up):
        for thunk in both:
            jax.block_until_ready(thunk())
    seconds = np.empty((pairs, 2))
    with _no_garbage_collection():
        for pair in seconds:
            for which in rng.permutation(2):
                pair[which] = _seconds(both[which])
    return summary(seconds)


def summary(seconds: np.ndarray) -> Timing:
    """The figures of an array of pairs: contender in column 0, baseline in column 1."""
    ratios = seconds[:, 0] / seconds[:, 1]
    samples = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(samples, axis=1), [2.5, 97.5])
    first, third = np.percentile(ratios, [25, 75])
    return Timing(
        ratio=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        median_s=float(np.median(seconds[:, 0])),
        baseline_s=float(np.median(seconds[:, 1])),
        iqr=float(third - first),
        pairs=len(ratios),
    )


def _seconds(thunk: Thunk) -> float:
    start = time.perf_counter()
    jax.block_until_ready(thunk())
    return time.perf_counter() - start


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
