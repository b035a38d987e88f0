"""A few cases of each test, spread evenly over all of them, for `make test`."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from zlib import crc32

import pytest


def spread(count: int, most: int, name: str) -> set[int]:
    """So many places at most, from the first to the last, as far apart as can be.

    A single one is drawn by the name, so that the tests of one table do not all take its first row.
    """
    if count <= most:
        return set(range(count))
    if most == 1:
        return {crc32(name.encode()) % count}
    return {round(i * (count - 1) / (most - 1)) for i in range(most)}


def few(items: Sequence[pytest.Item], most: int) -> Iterator[pytest.Item]:
    """All items of a test that is marked `cover`; of another one so many at most."""
    for name, cases in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        found = list(cases)
        limit = len(found) if found[0].get_closest_marker("cover") else most
        places = spread(len(found), limit, name)
        yield from (item for i, item in enumerate(found) if i in places)
