"""Networks of every framework, each as a function, its parameters and its inputs."""

from functools import cache

import pytest
from zoo_flax import FLAX
from zoo_others import OTHERS
from zoo_plain import PLAIN, Net

ZOO = PLAIN | FLAX | OTHERS
# Where a law compiles, `make test` takes these and `make test-all` every network.
SHORT = {
    *("plain mlp", "plain scan, checkpointed", "plain control flow", "plain computed weights"),
    *("plain experts", "plain thrice", "linen scan", "equinox pictures"),
    *("haiku convolutions", "lstm"),
}
COMPILED = [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in ZOO]


@cache
def net(name: str) -> Net:
    return ZOO[name]()
