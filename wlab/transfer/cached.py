"""Feature extraction: a frozen body is run once, and its outputs are kept as data."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np

from wlab.transform import Params

T = TypeVar("T")


def features(
    apply: Callable[[Params, Any], Any],
    params: Params,
    batches: Iterable[Any],
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Runs the body over the data once; gives what it returns, batch by batch, as numpy arrays.

    Compiled once: a short batch is filled up with copies of its last row and cut again, so
    `apply` must treat each row on its own (norms with stored statistics, no batch statistics).
    The device works on the next batch while one is handed out.

    A head is trained on the result as on any data set, at no cost of the body:

        cached = [*features(lambda p, b: {"x": body(p, b["image"]), "y": b["label"]}, p, data)]
        rows = {name: np.concatenate([part[name] for part in cached]) for name in cached[0]}

    Args:
        apply: `(params, batch) -> features`, any pytree of arrays with a row for each example.
        params: The body's weights, as the model sees them.
        batches: Pytrees of arrays with equally many rows each; the first one is the largest.
        progress: Called with the number of rows handed out so far.

    Raises:
        ValueError: If a batch has uneven rows or more than the first, or `apply` does not
            return a row for each example.
    """
    done = 0
    for result, rows in _one_late(_computed(jax.jit(apply), params, batches)):
        part = jax.tree.map(lambda x, rows=rows: np.asarray(x)[:rows], result)
        done += rows
        if progress is not None:
            progress(done)
        yield part


def _computed(
    compiled: Callable[[Params, Any], Any], params: Params, batches: Iterable[Any]
) -> Iterator[tuple[Any, int]]:
    """Results that may still be computing, each with its number of true rows."""
    capacity = 0
    for batch in batches:
        rows = _rows(batch)
        capacity = capacity or rows
        if rows > capacity:
            raise ValueError(
                f"features: a batch of {rows} rows after one of {capacity}: put the largest first."
            )
        full = jax.tree.map(partial(_filled_up, rows=capacity), batch)
        result = compiled(params, full)
        _check_rows(result, capacity)
        yield result, rows


def _one_late(items: Iterable[T]) -> Iterator[T]:
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _rows(batch: Any) -> int:
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(counts) != 1 or counts in ({()}, {(0,)}):
        raise ValueError(
            "features: the arrays of a batch must have the same number of rows, at least one; "
            f"got the shapes {[np.shape(leaf) for leaf in jax.tree.leaves(batch)]}."
        )
    return counts.pop()[0]


def _filled_up(x: Any, rows: int) -> Any:
    missing = rows - len(x)
    return np.pad(x, [(0, missing)] + [(0, 0)] * (np.ndim(x) - 1), "edge") if missing else x


def _check_rows(result: Any, rows: int) -> None:
    for leaf in jax.tree.leaves(result):
        if leaf.shape[:1] != (rows,):
            raise ValueError(
                f"features: apply returned an array of shape {leaf.shape} for {rows} rows; "
                "return a row for each example."
            )
