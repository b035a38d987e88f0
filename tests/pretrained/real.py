"""Real networks, where they have been fetched; else the test says how to get them."""

from functools import cache

import pytest

from wlab import pretrained
from wlab.data import cache_folder


@cache
def network(name: str) -> pretrained.Network:
    folder(name)
    return pretrained.network(name)


def folder(name: str):
    found = cache_folder() / "weights" / name
    if not found.exists():
        pytest.skip(f"{name} is not cached: run `wlab weights fetch {name}` to test it")
    return found
