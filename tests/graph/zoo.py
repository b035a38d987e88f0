"""Networks of every framework, each as a function, its parameters and its inputs."""

from functools import cache

from zoo_flax import FLAX
from zoo_others import OTHERS
from zoo_plain import PLAIN, Net

ZOO = PLAIN | FLAX | OTHERS


@cache
def net(name: str) -> Net:
    return ZOO[name]()
