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


def codes(w: jax.Array) -> dict[str, jax.Array]:
    """Eight bits a weight, and a scale for each output."""
    scale = jnp.max(jnp.abs(w), axis=-2, keepdims=True) / 127
    return {"codes": jnp.round(w / scale).astype(jnp.int8), "scale": scale}


def in_integers(x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
    """Rows by inputs times inputs by outputs, both sides in eight bits."""
    scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 127
    rounded = jnp.round(x / scale).astype(jnp.int8)
    sums = jax.lax.dot(rounded, w["codes"], preferred_element_type=jnp.int32)
    return sums.astype(jnp.float32) * scale * w["scale"]


def main() -> None:
    """Reads the network, finds the inputs that each weight had, then computes in integers."""
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

    rules = [("layers/(up|down)", graph.matmul(in_integers)), (".*", None)]
    run = jax.jit(graph.replace(graph.read(network, params, tokens), rules))
    packed = {name: codes(layers[name]) for name in ("up", "down")}  # a scan cuts these, too
    error = run(params | {"layers": layers | packed}, tokens) - logits
    error = jnp.linalg.norm(error) / jnp.linalg.norm(logits)
    print(f"with weights and inputs of eight bits, logits differ by {100 * error:.2f} %")
    assert error < 0.02


if __name__ == "__main__":
    main()
