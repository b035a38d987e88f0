"""Shrinking: a convolutional network with half of its channels, in four lines.

Run     python -m experiments.examples.shrinking
Expect  a quarter of the multiply-adds, and what the masked network says to 1e-6
"""

import jax
import jax.numpy as jnp

from wlab import graph, models, pruning, tree
from wlab.models.resnet import ResNetConfig


def main() -> None:
    """Finds what lives and dies together, keeps the better half, and shrinks."""
    model = models.resnet(ResNetConfig((2, 2), (16, 32), classes=10))
    params, statistics = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))

    def network(leaves: dict, images: jax.Array) -> jax.Array:
        return model.apply(leaves["params"], images, leaves["statistics"])[0]

    leaves = {"params": params, "statistics": statistics}
    groups = graph.groups(graph.read(network, leaves, images))
    print(groups, end="\n\n")

    squares = jax.tree.map(jnp.square, leaves)
    keep = pruning.best_units(groups, pruning.unit_scores(groups, squares), 0.5, round_to=8)
    small = graph.shrink(groups, keep)
    fewer = small.params(leaves)

    before, after = (
        graph.multiply_adds(graph.read(fn, given, images))
        for fn, given in ((network, leaves), (small.fn, fewer))
    )
    print(f"{tree.count(leaves):,} -> {tree.count(fewer):,} weights")
    print(f"{before:,} -> {after:,} multiply-adds")
    print(f"{graph.verify(groups, keep, leaves, images):.1e} from the masked network")


if __name__ == "__main__":
    main()
