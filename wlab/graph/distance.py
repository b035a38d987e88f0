"""How far two results are from each other."""

from typing import Any

import jax
import numpy as np


def distance(expected: Any, found: Any) -> float:
    """max |difference| / max |expected|, over all arrays that have the same shape in both."""
    results = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in results]
    alike = [(a, b) for a, b in pairs if a.shape == b.shape]
    most = max(np.abs(a - b).max() for a, b in alike)
    return float(most / max(np.abs(a).max() for a, _ in alike))
