"""The same three-layer network in each kind of tree that people keep their weights in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

SIZES = (16, 16, 16, 8)
LAYERS = range(len(SIZES) - 1)


@dataclass(frozen=True)
class Framework:
    """A network as (init, apply), and how its paths are spelled.

    `tie` names two equal kernels: (destination, source).
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    kernels: str
    tie: tuple[str, str]


def forward(layers: list[Callable[[jax.Array], jax.Array]], x: jax.Array) -> jax.Array:
    # Smooth, so that no gradient is exactly zero by itself: adam(eps=0) would divide 0 by 0.
    for layer in layers[:-1]:
        x = jnp.tanh(layer(x))
    return layers[-1](x)


def plain() -> Framework:
    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(LAYERS))
        return {
            f"fc{i}": {
                "kernel": jax.random.normal(keys[i], SIZES[i : i + 2]) / SIZES[i] ** 0.5,
                "bias": jnp.zeros(SIZES[i + 1]),
            }
            for i in LAYERS
        }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        def layer(p: Any) -> Callable[[jax.Array], jax.Array]:
            return lambda x: x @ p["kernel"] + p["bias"][None]

        return forward([layer(params[f"fc{i}"]) for i in LAYERS], x)

    return Framework(init, apply, ".*/kernel", ("fc1/kernel", "fc0/kernel"))


def flax_linen() -> Framework:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return forward([nn.Dense(n) for n in SIZES[1:]], x)

    return Framework(
        lambda key: Net().init(key, jnp.zeros((1, SIZES[0]))),
        lambda params, x: Net().apply(params, x),
        ".*/kernel",
        ("params/Dense_1/kernel", "params/Dense_0/kernel"),
    )


def flax_nnx() -> Framework:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            for i in LAYERS:
                setattr(self, f"fc{i}", nnx.Linear(SIZES[i], SIZES[i + 1], rngs=rngs))

        def __call__(self, x: jax.Array) -> jax.Array:
            return forward([getattr(self, f"fc{i}") for i in LAYERS], x)

    graph = nnx.split(Net(nnx.Rngs(0)), nnx.Param)[0]
    return Framework(
        lambda key: nnx.split(Net(nnx.Rngs(key)), nnx.Param)[1],
        lambda params, x: nnx.merge(graph, params)(x),
        ".*/kernel",
        ("fc1/kernel", "fc0/kernel"),
    )


def equinox() -> Framework:
    class Net(eqx.Module):
        layers: list[eqx.nn.Linear]

        def __init__(self, key: jax.Array) -> None:
            keys = jax.random.split(key, len(LAYERS))
            self.layers = [eqx.nn.Linear(SIZES[i], SIZES[i + 1], key=keys[i]) for i in LAYERS]

        def __call__(self, x: jax.Array) -> jax.Array:
            return forward([jax.vmap(layer) for layer in self.layers], x)

    return Framework(
        lambda key: eqx.filter(Net(key), eqx.is_inexact_array),
        lambda params, x: params(x),
        ".*/weight",
        ("layers/1/weight", "layers/0/weight"),
    )


def haiku() -> Framework:
    net = hk.without_apply_rng(
        hk.transform(lambda x: forward([hk.Linear(n) for n in SIZES[1:]], x))
    )
    return Framework(
        lambda key: net.init(key, jnp.zeros((1, SIZES[0]))),
        net.apply,
        ".*/w",
        ("linear_1/w", "linear/w"),
    )


FRAMEWORKS: dict[str, Framework] = {
    "dict": plain(),
    "linen": flax_linen(),
    "nnx": flax_nnx(),
    "equinox": equinox(),
    "haiku": haiku(),
}
