"""Statistics of a leaf of any size, streamed: moments in float64, counts in integers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

_CHUNK = 1 << 20  # entries in float64 at once: 8 MB


@dataclass(frozen=True)
class LeafStats:
    """Counts of all entries, and moments of the finite ones.

    Attributes:
        size: Entries.
        zeros: Those equal to zero.
        nan: Those that are no number.
        inf: Those that are infinite.
        mean: Mean of the finite entries; 0 if there are none.
        squares: Σ (x - mean)² over the finite entries.
        absmax: The largest finite magnitude; 0 if there are none.
    """

    size: int = 0
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    mean: float = 0.0
    squares: float = 0.0
    absmax: float = 0.0

    @property
    def finite(self) -> int:
        """The number of finite entries."""
        return self.size - self.nan - self.inf

    @property
    def std(self) -> float:
        """The standard deviation of the finite entries (dividing by their number)."""
        return math.sqrt(self.squares / max(self.finite, 1))

    @property
    def density(self) -> float:
        """The fraction of entries that are not zero; 1 for an empty leaf."""
        return 1 - self.zeros / max(self.size, 1)


def leaf_stats(array: np.ndarray) -> LeafStats:
    """The statistics of an array of any numeric dtype, bfloat16 and float8 included.

    Memory-mapped arrays are read once, a chunk at a time. Complex entries count by magnitude.
    """
    flat = array.reshape(-1)
    starts = range(0, flat.size, _CHUNK)
    return merged(_chunk_stats(flat[start : start + _CHUNK]) for start in starts)


def merged(parts: Iterable[LeafStats]) -> LeafStats:
    """The statistics of all the parts together.

    Reference:
        Chan, Golub & LeVeque 1983, eq. 1.5: moments merged without cancellation.
    """
    return reduce(_merge, parts, LeafStats())


def _chunk_stats(x: np.ndarray) -> LeafStats:
    x = (np.abs(x) if x.dtype.kind == "c" else x).astype(np.float64)
    nan, inf = int(np.isnan(x).sum()), int(np.isinf(x).sum())
    finite = x[np.isfinite(x)] if nan or inf else x
    mean = float(finite.mean()) if finite.size else 0.0
    return LeafStats(
        size=x.size,
        zeros=x.size - int(np.count_nonzero(x)),
        nan=nan,
        inf=inf,
        mean=mean,
        squares=float(np.square(finite - mean).sum()),
        absmax=float(np.abs(finite).max(initial=0.0)),
    )


def _merge(a: LeafStats, b: LeafStats) -> LeafStats:
    count = max(a.finite + b.finite, 1)
    apart = b.mean - a.mean
    return LeafStats(
        size=a.size + b.size,
        zeros=a.zeros + b.zeros,
        nan=a.nan + b.nan,
        inf=a.inf + b.inf,
        mean=a.mean + apart * b.finite / count,
        squares=a.squares + b.squares + apart**2 * a.finite * b.finite / count,
        absmax=max(a.absmax, b.absmax),
    )
