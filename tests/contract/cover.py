"""A small fixed set of rows in which every pair of values of two factors occurs."""

import itertools
from collections.abc import Mapping, Sequence

Row = tuple[str, ...]


def pairwise(factors: Mapping[str, Sequence[str]]) -> list[Row]:
    """Greedy and deterministic: each row takes the values that cover most open pairs.

    The result is the same on every machine, so a failing row can be named.
    """
    names = list(factors)
    open_pairs = {
        (i, a, j, b)
        for i, j in itertools.combinations(range(len(names)), 2)
        for a in factors[names[i]]
        for b in factors[names[j]]
    }
    order = {value: n for values in factors.values() for n, value in enumerate(values)}
    rows: list[Row] = []
    while open_pairs:
        i, a, j, b = min(open_pairs, key=lambda p: (p[0], p[2], order[p[1]], order[p[3]]))
        row = {i: a, j: b}
        for k in range(len(names)):
            if k not in row:
                row[k] = max(
                    factors[names[k]],
                    key=lambda v, k=k: (_gain(row, k, v, open_pairs), -order[v]),
                )
        rows.append(tuple(row[k] for k in range(len(names))))
        open_pairs -= set(_pairs(rows[-1]))
    return rows


def _gain(row: Mapping[int, str], k: int, value: str, open_pairs: set) -> int:
    return sum(
        ((i, a, k, value) if i < k else (k, value, i, a)) in open_pairs for i, a in row.items()
    )


def _pairs(row: Row) -> list[tuple[int, str, int, str]]:
    return [(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(row)), 2)]
