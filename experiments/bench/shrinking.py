"""Forward passes of ResNet-56 with fewer channels, against the whole, of 128 images."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.bench import Bench, timed
from experiments.bench.pair import Thunk
from wlab import graph, models, pruning
from wlab.models.resnet import ResNetConfig, cifar

WITHIN = [(r".*/branch/conv_1/kernel:3", True), (".*", None)]
FEW = 20  # pairs: a pass takes a third of a second


def benches(depth: int = 56, batch: int = 128) -> list[Bench]:
    """Half of the channels within blocks, and half of all: half and a quarter of the work."""

    def row(name: str, bar: float, rules: Any) -> Bench:
        make = partial(pair, cifar(depth), batch, rules)
        return Bench(name, "the whole", bar, timed(make, at_most=FEW))

    return [row("half-resnet56", 0.8, WITHIN), row("quarter-resnet56", 0.556, None)]


def pair(config: ResNetConfig, batch: int, rules: Any) -> tuple[Thunk, Thunk]:
    """The smaller network and the whole one."""
    model = models.resnet(config)
    params, state = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (batch, 32, 32, 3))

    def network(leaves: Any, images: jax.Array) -> jax.Array:
        return model.apply(leaves["params"], images, leaves["state"])[0]

    leaves = {"params": params, "state": state}
    groups = graph.groups(graph.read(network, leaves, images))
    scores = pruning.unit_scores(groups, jax.tree.map(jnp.square, leaves))
    keep = pruning.best_units(groups, scores, 0.5, rules, round_to=8)
    small = graph.shrink(groups, keep)
    less, fewer = jax.jit(small.fn), small.params(leaves)
    whole = jax.jit(network)
    return lambda: less(fewer, images), lambda: whole(leaves, images)
