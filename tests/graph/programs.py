"""Random functions over random weights: what shrinking must get right or leave alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from zoo_plain import Net, numbers

Step = Callable[[Any, jax.Array], jax.Array]


def program(seed: int, length: int = 7) -> Net:
    """A few random operations, one after another, on inputs of shape (3, 12)."""
    rng = np.random.default_rng(seed)
    params: dict[str, jax.Array] = {}
    steps: list[Step] = []
    shape: tuple[int, ...] = (3, 12)

    def apply(p: Any, x: jax.Array) -> jax.Array:
        for step in steps:
            x = step(p, x)
        return x.reshape(x.shape[0], -1) @ p["last"]

    while len(steps) < length:
        make = _MAKERS[rng.integers(len(_MAKERS))]
        step = make(rng, params, shape)
        if step is None:
            continue
        new = jax.eval_shape(step, params, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
        if np.prod(new) <= 600:
            steps.append(step)
            shape = new
    params["last"] = numbers((int(np.prod(shape[1:])), 4), seed)
    return apply, params, (numbers((3, 12), seed + 1),)


def _leaf(params: dict[str, jax.Array], shape: tuple[int, ...]) -> str:
    name = f"w{len(params)}"
    params[name] = 2 * numbers(shape, len(params))
    return name


def _dense(rng: Any, params: Any, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(1, len(shape)))
    name = _leaf(params, (shape[axis], int(rng.choice([4, 6, 12]))))
    return lambda p, x: jnp.moveaxis(jnp.tensordot(x, p[name], ((axis,), (0,))), -1, axis)


def _scaled(rng: Any, params: Any, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(1, len(shape)))
    wide = tuple(n if i == axis else 1 for i, n in enumerate(shape))
    name, plus = _leaf(params, (shape[axis],)), bool(rng.integers(2))
    return lambda p, x: x + p[name].reshape(wide) if plus else x * p[name].reshape(wide)


def _curve(rng: Any, params: Any, shape: tuple[int, ...]) -> Step:
    curves = (jax.nn.relu, jnp.tanh, jax.nn.silu, jax.nn.sigmoid, jnp.cos, jax.nn.elu, jnp.square)
    curve = curves[rng.integers(len(curves))]
    return lambda p, x: curve(x)


def _split(rng: Any, params: Any, shape: tuple[int, ...]) -> Step | None:
    axis = int(rng.integers(1, len(shape)))
    if shape[axis] % 2:
        return None
    ways = (
        lambda a, b: a * jax.nn.sigmoid(b),
        lambda a, b: a + b,
        lambda a, b: jnp.concatenate([b, a], axis),
        lambda a, b: jnp.concatenate([a, a - b, b], axis),
        lambda a, b: a,
    )
    way = ways[rng.integers(len(ways))]
    return lambda p, x: way(*jnp.split(x, 2, axis))


def _reshaped(rng: Any, params: Any, shape: tuple[int, ...]) -> Step | None:
    if len(shape) == 3:
        return lambda p, x: x.reshape(x.shape[0], -1)
    outer = int(rng.choice([2, 3]))
    return None if shape[1] % outer else lambda p, x: x.reshape(x.shape[0], outer, -1)


def _turned(rng: Any, params: Any, shape: tuple[int, ...]) -> Step | None:
    if len(shape) == 3:
        return lambda p, x: x.transpose(0, 2, 1)
    return (lambda p, x: x[:, ::-1]) if rng.integers(2) else (lambda p, x: x[:, ::2])


def _met(rng: Any, params: Any, shape: tuple[int, ...]) -> Step | None:
    """What one part of a value says to another: attention without and with its softmax."""
    if len(shape) != 3:
        return None
    soft = bool(rng.integers(2))

    def step(p: Any, x: jax.Array) -> jax.Array:
        odds = jnp.einsum("nad,nbd->nab", x, x)
        return jnp.einsum("nab,nbd->nad", jax.nn.softmax(odds) if soft else odds / 9, x)

    return step


def _reduced(rng: Any, params: Any, shape: tuple[int, ...]) -> Step | None:
    if len(shape) != 3:
        return None
    ways = (jnp.sum, jnp.max, jnp.mean)
    way, axis = ways[rng.integers(3)], int(rng.integers(1, 3))
    return lambda p, x: way(x, axis)


def _normed(rng: Any, params: Any, shape: tuple[int, ...]) -> Step:
    def root(p: Any, x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-3)

    def layer(p: Any, x: jax.Array) -> jax.Array:
        x = x - x.mean(-1, keepdims=True)
        return root(p, x)

    return root if rng.integers(2) else layer


def _looped(rng: Any, params: Any, shape: tuple[int, ...]) -> Step:
    """Three residual layers in a scan, of stacked weights."""
    up, down = (_leaf(params, (3, *sizes)) for sizes in ((shape[-1], 5), (5, shape[-1])))

    def turn(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        return x + jnp.tanh(x @ layer[0]) @ layer[1], None

    return lambda p, x: jax.lax.scan(turn, x, (p[up], p[down]))[0]


_MAKERS = (
    *(_dense, _dense, _dense, _scaled, _curve, _split, _reshaped, _turned, _met),
    *(_reduced, _normed, _looped),
)
