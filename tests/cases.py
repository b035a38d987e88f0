"""A few cases of each test, spread evenly over all of them, for `make test`."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import pytest


def spread(count: int, most: int) -> set[int]:
    """So many places at most, from the first to the last, as far apart as can be."""
    if count <= most or most == 1:
        return set(range(min(count, most)))
    return {round(i * (count - 1) / (most - 1)) for i in range(most)}


def few(items: Sequence[pytest.Item], most: int) -> Iterator[pytest.Item]:
    """All items of a test that is marked `cover`; of another one so many at most."""
    for _, cases in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        found = list(cases)
        places = spread(len(found), len(found) if found[0].get_closest_marker("cover") else most)
        yield from (item for i, item in enumerate(found) if i in places)
