"""A small fixed set of rows in which every pair of aspects of two factors occurs."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

Row = tuple[str, ...]
Factor = Mapping[str, Sequence[str]]  # a value, and the aspects of it that are to meet others
Pair = tuple[int, str, int, str]


def alone(values: Sequence[str]) -> Factor:
    """A factor whose values have one aspect each: themselves."""
    return {value: (value,) for value in values}


def pairwise(factors: Mapping[str, Factor], dear: Collection[str] = ()) -> list[Row]:
    """Greedy and deterministic: each row takes the values that cover most open pairs.

    Among equals one that is not `dear` is taken, then the rarest so far, so that every value
    occurs, and whole values meet too.
    The result is the same on every machine: a failing row can be named.
    """
    known = list(factors.values())
    open_pairs = every_pair(factors)
    rows: list[Row] = []
    met: Counter[tuple[str, str]] = Counter()
    while open_pairs:
        first = min(open_pairs, key=lambda p: (p[0], p[2], p[1], p[3]))
        rows.append(_row({first[0]: first[1], first[2]: first[3]}, known, open_pairs, met, dear))
        open_pairs -= set(pairs(rows[-1], factors))
        met.update(itertools.combinations(rows[-1], 2))
    return rows


def every_pair(factors: Mapping[str, Factor]) -> set[Pair]:
    """All pairs of aspects of two factors."""
    aspects = [{a for each in factor.values() for a in each} for factor in factors.values()]
    return {
        (i, a, j, b)
        for i, j in itertools.combinations(range(len(aspects)), 2)
        for a in aspects[i]
        for b in aspects[j]
    }


def pairs(row: Row, factors: Mapping[str, Factor]) -> Iterator[Pair]:
    """The pairs of aspects in a row."""
    aspects = [factor[value] for factor, value in zip(factors.values(), row, strict=True)]
    for i, j in itertools.combinations(range(len(row)), 2):
        for a, b in itertools.product(aspects[i], aspects[j]):
            yield i, a, j, b


def _row(
    wanted: Mapping[int, str],
    known: list[Factor],
    open_pairs: set[Pair],
    met: Counter,
    dear: Collection[str],
) -> Row:
    """A row with the wanted values or aspects; the others cover most open pairs."""
    chosen: dict[int, str] = {}
    for k in sorted(range(len(known)), key=lambda k: k not in wanted):
        aspect = wanted.get(k)
        fit = [v for v, of in known[k].items() if aspect is None or aspect == v or aspect in of]
        gain = [_gain(chosen, k, known[k][v], known, open_pairs) for v in fit]
        often = [sum(met[pair] for pair in _with(chosen, k, v)) for v in fit]
        rank = [(-g, v in dear, n) for g, v, n in zip(gain, fit, often, strict=True)]
        chosen[k] = fit[rank.index(min(rank))]
    return tuple(chosen[k] for k in range(len(known)))


def _with(chosen: Mapping[int, str], k: int, value: str) -> Iterator[tuple[str, str]]:
    for i, other in chosen.items():
        yield (other, value) if i < k else (value, other)


def _gain(
    chosen: Mapping[int, str], k: int, aspects: Sequence[str], known: list[Factor], open_pairs: set
) -> int:
    found = 0
    for i, value in chosen.items():
        for a, b in itertools.product(known[i][value], aspects):
            found += ((i, a, k, b) if i < k else (k, b, i, a)) in open_pairs
    return found
