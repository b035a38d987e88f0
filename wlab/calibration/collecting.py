"""Runs a function over batches and adds up a statistic of each weight's inputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab import graph
from wlab.graph import Statistic, Use
from wlab.transform import Params

Collected = dict[str, Any]  # by the leaf's path


def collect(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[tuple[Any, ...]],
    statistic: Statistic,
    *,
    where: Callable[[Use], bool] = lambda use: True,
    begin: Collected | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Collected:
    """A statistic of what each weight is multiplied with, over all batches.

    The function is compiled once a shape. A leaf that is used several times has all uses
    together. Batches may be sharded; what is found is as large as its statistic, not as the data.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`, read one at a time.
        statistic: As `gram()`, `squares()`, `absmax()`.
        where: Which uses of leaves; all products and convolutions by default.
        begin: What earlier batches gave: to go on after an interruption, or to merge.
        report: Called with the number of batches done.

    Raises:
        ValueError: If there is no batch, no such use, the uses of a leaf sum over different
            axes of it, or something found is not finite.
        TypeError: If a batch is not a tuple.
    """
    run = jax.jit(partial(_together, fn, statistic, where))
    added = jax.jit(statistic.together, donate_argnums=0)
    total = begin if begin is None else jax.tree.map(jnp.copy, begin)  # `added` consumes it
    for done, batch in enumerate(batches, 1):
        if not isinstance(batch, tuple):
            raise TypeError(f"collect: a batch is a tuple of inputs, got {type(batch).__name__}.")
        found = run(params, *batch)
        total = found if total is None else added(total, found)
        report(done)
    if total is None:
        raise ValueError("collect: there is no batch to calibrate on.")
    refuse_bad(total)
    return total


def merged(statistic: Statistic, parts: Sequence[Collected]) -> Collected:
    """What several sets of batches gave, together.

    Raises:
        ValueError: If there are none, or they are of different leaves.
    """
    if len({tuple(sorted(part)) for part in parts}) != 1:
        raise ValueError("merged: the parts are not of the same leaves.")
    return reduce(statistic.together, parts)


def _together(
    fn: Callable[..., Any],
    statistic: Statistic,
    where: Callable[[Use], bool],
    params: Params,
    *inputs: Any,
) -> Collected:
    """One batch: all uses of a leaf together."""
    read = graph.read(fn, params, *inputs)
    chosen = graph.products(read, where)
    _, found = graph.captured(read, statistic, chosen, params, *inputs)
    return by_leaf(statistic, chosen, found)


def by_leaf(
    statistic: Statistic,
    chosen: Mapping[tuple[str, int], Use],
    found: Mapping[tuple[str, int], Any],
) -> Collected:
    """What was found at all uses of a leaf, together; in the order of the chosen uses.

    Raises:
        ValueError: If the uses of a leaf sum over different axes of it.
    """
    axes: dict[str, tuple[int, ...]] = {}
    total: Collected = {}
    for (path, k), use in chosen.items():
        if axes.setdefault(path, use.in_axes) != use.in_axes:
            raise ValueError(
                f"collect: {path!r} is summed over its axes {axes[path]} in one place and over "
                f"{use.in_axes} in another; choose one by `where`."
            )
        value = found[path, k]
        total[path] = statistic.together(total[path], value) if path in total else value
    return total


def refuse_bad(total: Mapping[str, Any]) -> None:
    """Raises a ValueError if anything that was found is not finite."""
    for path, found in total.items():
        for leaf in jax.tree.leaves(found):
            if not np.isfinite(np.asarray(leaf)).all():
                raise ValueError(
                    f"collect: the inputs of {path!r} hold NaN or infinity. Look at the data, and "
                    "at the layers before."
                )
