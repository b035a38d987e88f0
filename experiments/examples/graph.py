"""Graph: what a network does with its weights, and what each of them gets to see.

Run     python -m experiments.examples.graph
"""

import jax
import jax.numpy as jnp

from wlab import graph


def network(params: dict, tokens: jax.Array) -> jax.Array:
    """Three layers in a scan, and one table for words in and words out."""

    def layer(x: jax.Array, p: dict) -> tuple[jax.Array, None]:
        return x + jnp.tanh(x @ p["up"] + p["bias"][None]) @ p["down"], None

    x, _ = jax.lax.scan(layer, params["embed"][tokens], params["layers"])
    return x @ params["embed"].T


def main() -> None:
    """Reads the network, then runs it and finds the inputs that each weight had."""
    shapes = {"up": (3, 16, 32), "bias": (3, 32), "down": (3, 32, 16)}
    keys = jax.random.split(jax.random.key(0), 4)
    layers = {n: jax.random.normal(k, shapes[n]) / 4 for n, k in zip(shapes, keys, strict=False)}
    params = {"embed": jax.random.normal(keys[3], (50, 16)), "layers": layers}
    tokens = jnp.arange(40) % 50

    print(graph.read(network, params, tokens))

    norms = graph.Statistic(lambda x: jnp.sum(x * x, axis=-2))  # of each column: Wanda's
    logits, found = jax.jit(graph.capture(network, norms))(params, tokens)
    assert jnp.allclose(logits, network(params, tokens), atol=1e-5)
    for (path, k), squares in found.items():
        print(f"{path}, use {k}: {squares.shape}, the largest input is {squares.max() ** 0.5:.2f}")


if __name__ == "__main__":
    main()
