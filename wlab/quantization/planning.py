"""A format for each leaf, from what the network loses if that leaf is rounded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from wlab import tree
from wlab.quantization.formats import Format
from wlab.quantization.sensitivity import coded_bytes
from wlab.tree import Rules, Table
from wlab.tree.paths import Tree


class Option(NamedTuple):
    """One way to write a leaf."""

    nbytes: int
    harm: float
    format: Format | None


Choice: TypeAlias = dict[str, Option]
Hulls: TypeAlias = Mapping[str, Sequence[Option]]


class Plan(NamedTuple):
    """A format for each leaf.

    Attributes:
        rules: For `quantize_tree`.
        table: Every leaf of the tree with its format, bits a weight, bytes and harm; a total.
        nbytes: Of the whole tree, once it is quantized.
        harm: The sum over leaves.
    """

    rules: Rules[Format | None]
    table: Table
    nbytes: int
    harm: float


def plan(
    params: Tree,
    sensitivities: Table,
    *,
    budget_bytes: int | None = None,
    max_harm: float | int | None = None,
) -> Plan:
    """Chooses a format for each leaf: the least harm within some bytes, or the fewest bytes.

    Harms are taken to add up over leaves. Every leaf may also stay as it is, at no harm. It begins
    so, or with a format that measured even less; then, along the convex hull of each leaf's bytes
    and harms, whichever step harms least for the bytes it saves is taken, until the budget is met;
    what the last step saved in excess is spent again where it undoes the most. No other choice can
    be better by more than the harm of that last step.

    Nothing is quantized: shapes are enough, and the table is a dry run.

    Args:
        params: The tree, or its shapes. A tied leaf must stand in it once, as in what
            `wlab.tying.tie` stores.
        sensitivities: Of `sensitivity`, or any table with its columns; bytes are counted anew.
        budget_bytes: Of the whole tree, leaves that no format was tried on among them.
        max_harm: The sum over leaves that is not exceeded.

    Raises:
        ValueError: If not exactly one of the two is given, no choice is within the budget, a harm
            is not finite, a leaf of the table is not in the tree, or two leaves of the table are
            one array.
    """
    options = _options(params, sensitivities)
    leaves = tree.leaves(params)
    others = tree.nbytes([leaf for path, leaf in leaves.items() if path not in options])
    hulls = {path: _hull(each) for path, each in options.items()}
    if budget_bytes is not None and max_harm is None:
        choice = _within_bytes(hulls, options, budget_bytes - others)
    elif max_harm is not None and budget_bytes is None:
        choice = _within_harm(hulls, max_harm)
    else:
        raise ValueError("plan: give either budget_bytes or max_harm.")
    chosen = [(re.escape(path), each.format) for path, each in choice.items() if each.format]
    table = _table(leaves, choice, others)
    return Plan([*chosen, (".*", None)], table, table.rows[-1][3], table.rows[-1][4])


def _options(params: Tree, sensitivities: Table) -> dict[str, list[Option]]:
    """All ways to write each leaf, as it is among them."""
    leaves = tree.leaves(params)
    options: dict[str, list[Option]] = {}
    for row in sensitivities.records():
        path, format, harm = row["path"], row["format"], float(row["harm"])
        if path not in leaves:
            raise ValueError(f"plan: there is no leaf {path!r}; the tree has {list(leaves)[:8]}.")
        if not np.isfinite(harm):
            raise ValueError(f"plan: {path!r} has the harm {harm} as {format}; leave it out.")
        as_it_is = Option(coded_bytes(leaves[path], None), 0.0, None)
        option = Option(coded_bytes(leaves[path], format), harm, format)
        options.setdefault(path, [as_it_is]).append(option)
    for names in tree.aliases({path: leaves[path] for path in options}):
        raise ValueError(
            f"plan: {list(names)} are one array, and would become two: tie them first, and plan "
            "what is stored."
        )
    return options


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull, from the least harm down to the fewest bytes."""
    least = min(options, key=lambda each: (each.harm, each.nbytes))
    smaller = sorted({each for each in options if each.nbytes < least.nbytes}, key=_by_size)
    hull = [least]
    for option in smaller:
        if option.nbytes == hull[-1].nbytes:  # the better of equals came first
            continue
        while len(hull) > 1 and _slope(hull[-1], option) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _by_size(option: Option) -> tuple[int, float]:
    return -option.nbytes, option.harm


def _slope(before: Option, after: Option) -> float:
    """What a byte saved costs."""
    return (after.harm - before.harm) / (before.nbytes - after.nbytes)


def _steps(hulls: Hulls) -> Iterator[tuple[str, Option]]:
    """Each step down a hull, those that cost least for a byte first."""
    steps = [
        (_slope(before, after), place, path, after)
        for path, hull in hulls.items()
        for place, (before, after) in enumerate(pairwise(hull))
    ]
    return ((path, after) for *_, path, after in sorted(steps, key=lambda step: step[:3]))


def _within_bytes(hulls: Hulls, options: Mapping[str, Sequence[Option]], budget: int) -> Choice:
    choice = {path: hull[0] for path, hull in hulls.items()}
    excess = sum(each.nbytes for each in choice.values()) - budget
    for path, after in _steps(hulls):
        if excess <= 0:
            return _spent(choice, options, -excess)
        excess -= choice[path].nbytes - after.nbytes
        choice[path] = after
    if excess > 0:
        raise ValueError(
            f"plan: even the smallest formats are {excess:,} bytes over the budget. "
            "Measure smaller ones, or more leaves."
        )
    return _spent(choice, options, -excess)


def _spent(choice: Choice, options: Mapping[str, Sequence[Option]], spare: int) -> Choice:
    """Undoes the most harm that the spare bytes can, leaf by leaf."""
    choice = dict(choice)
    while True:
        better = [
            (each.harm - now.harm, each.nbytes, path, each)
            for path, now in choice.items()
            for each in options[path]
            if each.harm < now.harm and each.nbytes - now.nbytes <= spare
        ]
        if not better:
            return choice
        *_, path, found = min(better, key=lambda one: one[:3])
        spare -= found.nbytes - choice[path].nbytes
        choice[path] = found


def _within_harm(hulls: Hulls, most: float | int) -> Choice:
    choice = {path: hull[0] for path, hull in hulls.items()}
    harm, stopped = sum(each.harm for each in choice.values()), set()
    if harm > most:
        raise ValueError(f"plan: even the least harm there is, {harm:.4g}, is above {most:.4g}.")
    for path, after in _steps(hulls):
        then = harm + after.harm - choice[path].harm
        if path in stopped or then > most:
            stopped.add(path)
            continue
        choice[path], harm = after, then
    return choice


def _table(leaves: Mapping[str, Any], choice: Choice, others: int) -> Table:
    rows: list[tuple[Any, ...]] = []
    for path, leaf in leaves.items():
        chosen = choice.get(path, Option(coded_bytes(leaf, None), 0.0, None))
        bits = 8 * chosen.nbytes / leaf.size if leaf.size else None
        rows.append((path, chosen.format, bits, chosen.nbytes, chosen.harm))
    nbytes = others + sum(each.nbytes for each in choice.values())
    harm = sum(each.harm for each in choice.values())
    bits = 8 * nbytes / max(tree.count(list(leaves.values())), 1)
    rows.append(("total", None, bits, nbytes, float(harm)))
    return Table(("path", "format", "bits", "bytes", "harm"), tuple(rows))
