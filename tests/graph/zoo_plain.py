"""Networks over plain dicts: what a reader must see through."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Net = tuple[Callable[..., Any], Any, tuple[Any, ...]]  # the function, its parameters, its inputs


def numbers(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) / 4


def mlp() -> Net:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x @ p["up"]["kernel"] + p["up"]["bias"][None])
        return x @ p["down"]["kernel"]

    params = {
        "up": {"kernel": numbers((8, 12), 1), "bias": numbers((12,), 2)},
        "down": {"kernel": numbers((12, 4), 3)},
        "idle": numbers((5,), 4),
    }
    return apply, params, (numbers((3, 8)),)


def block(p: Any, x: jax.Array) -> jax.Array:
    """Attention of four heads from one kernel, and a gated unit, over a root-mean-square norm."""

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        size = jnp.mean(x * x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(size + 1e-6) * scale[None, None]

    batch, time, width = x.shape
    q, k, v = jnp.split(norm(x, p["norm_1"]) @ p["qkv"], 3, axis=-1)
    heads = [part.reshape(batch, time, 4, width // 4) for part in (q, k, v)]
    scores = jnp.einsum("bthd,bshd->bhts", heads[0], heads[1]) / jnp.sqrt(width / 4)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), heads[2])
    x = x + mixed.reshape(batch, time, width) @ p["o"]
    gate, up = jnp.split(norm(x, p["norm_2"]) @ p["up"], 2, axis=-1)
    return x + (jax.nn.silu(gate) * up) @ p["down"]


def scanned(*, checkpointed: bool = False) -> Net:
    """Three blocks of a transformer in one scan, with one table for words in and out."""
    one = jax.checkpoint(block) if checkpointed else block

    def apply(p: Any, tokens: jax.Array) -> jax.Array:
        x = p["embed"][tokens]
        x, _ = jax.lax.scan(lambda x, layer: (one(layer, x), None), x, p["blocks"])
        return x @ p["embed"].T

    blocks = {
        "norm_1": 1 + numbers((3, 16), 1),
        "qkv": numbers((3, 16, 48), 2),
        "o": numbers((3, 16, 16), 3),
        "norm_2": 1 + numbers((3, 16), 4),
        "up": numbers((3, 16, 48), 5),
        "down": numbers((3, 24, 16), 6),
    }
    tokens = jnp.arange(10).reshape(2, 5) % 7
    return apply, {"embed": numbers((50, 16), 7), "blocks": blocks}, (tokens,)


def control_flow() -> Net:
    """Slices, a loop over one weight, a branch, a cast, and a weight that is carried."""

    def apply(p: Any, x: jax.Array) -> jax.Array:
        x = jnp.tanh(x @ p["pair"][0]) @ p["pair"][1]
        x = jax.lax.fori_loop(0, 3, lambda i, x: x @ p["again"], x)
        x = jax.lax.cond(x.sum() > 0, lambda x: x @ p["yes"], lambda x: x @ p["no"].T, x)
        x = (x.astype(jnp.bfloat16) @ p["cast"].astype(jnp.bfloat16)).astype(jnp.float32)
        x, _ = jax.lax.while_loop(
            lambda c: c[0].sum() < -1e9, lambda c: (c[0] @ c[1], c[1] / 2), (x, p["carried"])
        )
        x = x @ jnp.concatenate([p["left"], p["right"]], axis=1)
        return x @ p["rows"][:4].reshape(2, 2, 8).transpose(1, 0, 2).reshape(4, 8)[::-1].repeat(
            2, 0
        )

    params = {
        "pair": numbers((2, 8, 8), 1),
        "again": numbers((8, 8), 2),
        "yes": numbers((8, 8), 3),
        "no": numbers((8, 8), 4),
        "cast": numbers((8, 8), 5),
        "carried": numbers((8, 8), 6),
        "left": numbers((8, 4), 7),
        "right": numbers((8, 4), 8),
        "rows": numbers((6, 8), 9),
    }
    return apply, params, (numbers((2, 8)),)


def computed() -> Net:
    """Weights computed from weights: normalized, masked, rounded straight through, LoRA."""

    def through(w: jax.Array) -> jax.Array:
        return w + jax.lax.stop_gradient(jnp.round(8 * w) / 8 - w)

    def apply(p: Any, x: jax.Array) -> jax.Array:
        v = p["v"]
        x = x @ (v * p["g"][None] / jnp.sqrt(jnp.sum(v * v, axis=0, keepdims=True)))
        x = x @ (p["masked"] * p["mask"])
        x = x @ through(p["rounded"])
        return x @ (p["base"] + p["a"] @ p["b"])

    params = {
        "v": numbers((8, 8), 1),
        "g": numbers((8,), 2),
        "masked": numbers((8, 8), 3),
        "mask": (numbers((8, 8), 4) > 0).astype(jnp.float32),
        "rounded": numbers((8, 8), 5),
        "base": numbers((8, 8), 6),
        "a": numbers((8, 2), 7),
        "b": numbers((2, 8), 8),
    }
    return apply, params, (numbers((2, 8)),)


def experts() -> Net:
    """A soft mixture of three experts, and an ensemble by `vmap`."""

    def apply(p: Any, x: jax.Array) -> jax.Array:
        odds = jax.nn.softmax(x @ p["router"])
        hidden = jax.nn.relu(jnp.einsum("nd,edf->nef", x, p["up"]))
        mixed = jnp.einsum("ne,nef,efd->nd", odds, hidden, p["down"])
        votes = jax.vmap(lambda w: mixed @ w)(p["members"])
        return votes.mean(0)

    params = {
        "router": numbers((8, 3), 1),
        "up": numbers((3, 8, 12), 2),
        "down": numbers((3, 12, 8), 3),
        "members": numbers((5, 8, 4), 4),
    }
    return apply, params, (numbers((6, 8)),)


def thrice() -> Net:
    """One jitted function called with three weights: its jaxpr is one object, thrice in another."""
    layer = jax.jit(lambda w, x: jnp.tanh(x @ w))

    def apply(p: Any, x: jax.Array) -> jax.Array:
        return layer(p["c"], layer(p["b"], layer(p["a"], x)))

    return apply, {name: numbers((8, 8), i) for i, name in enumerate("abc")}, (numbers((2, 8)),)


PLAIN = {
    "plain mlp": mlp,
    "plain scan": scanned,
    "plain scan, checkpointed": lambda: scanned(checkpointed=True),
    "plain control flow": control_flow,
    "plain computed weights": computed,
    "plain experts": experts,
    "plain thrice": thrice,
}
