"""Errors, kept in a file a network, so that a run that is cut off goes on."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.kept import kept


def kept_error(path: Path, measure: Callable[[], float]) -> float:
    """The error in %, from its file or from the share that a network gets right."""
    return kept(path, lambda: 100 * (1 - measure()), name="error")


def spread(errors: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    mean = statistics.fmean(errors)
    return f"{mean:.2f} ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else f"{mean:.2f}"
