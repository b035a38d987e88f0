"""A bench: a named ratio, what it is measured against, and where it should stay."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

from experiments.bench.pair import Thunk, Timing, time_pairs

Measure: TypeAlias = Callable[[int], dict[str, Any]]


class Bench(NamedTuple):
    """A row of the table.

    Attributes:
        name: What is measured; also the file `runs/bench/<name>.json`.
        against: What the ratio is a ratio to.
        bar: The ratio should stay at or below it; None where there is no promise.
        measure: Pairs -> the fields of a `Timing`, and others of its own.
    """

    name: str
    against: str
    bar: float | None
    measure: Measure


def timed(make: Callable[[], tuple[Thunk, Thunk]], *, at_most: int | None = None) -> Measure:
    """A measure that times the (contender, baseline) of `make`.

    Args:
        make: Compiles and allocates; called only if the bench is run.
        at_most: Pairs, for thunks that take seconds.
    """

    def measure(pairs: int) -> dict[str, Any]:
        contender, baseline = make()
        return asdict(time_pairs(contender, baseline, pairs=min(pairs, at_most or pairs)))

    return measure


def counted(value: float, bound: float, **details: Any) -> dict[str, Any]:
    """The fields of a ratio that is counted rather than timed: it has no spread."""
    ratio = value / bound
    exact = Timing(ratio, ratio, ratio, median_s=None, baseline_s=None, iqr=0.0, pairs=0)
    return asdict(exact) | details
