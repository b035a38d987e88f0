"""AdaRound on one matrix: which way each weight is rounded is learned from what its inputs are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from wlab.quantization.arrays import fitted, quantize_on
from wlab.quantization.blocks import join
from wlab.quantization.fits import read
from wlab.quantization.formats import Format
from wlab.quantization.gptq_core import Kernel, Rounded, Square
from wlab.quantization.grids import Blocks, Integers, reciprocal
from wlab.quantization.ranges import RangeFn, absmax

ZETA, GAMMA = 1.1, -0.1  # the ends of the stretched sigmoid


def adaround_core(
    kernel: Kernel,
    gram: Square,
    format: Format,
    *,
    steps: int = 500,
    learning_rate: float = 0.03,
    regularization: float | int = 10.0,
    annealing: tuple[float, float] = (20.0, 2.0),
    warmup: float | int = 0.2,
    range_fn: RangeFn = absmax,
) -> Rounded:
    r"""Rounds each weight of a matrix up or down, so that outputs move least.

    $$\min_V \; \mathrm{tr}(D^\top X^\top X D) / \ell +
    \lambda \, \mathrm{mean}(1 - |2 h(V) - 1|^\beta)$$

    with $D = W - s \, \mathrm{clip}(\lfloor W / s \rfloor + h(V))$, in units of the loss ℓ of
    nearest rounding, by Adam. β falls, which drives h to 0 or 1. Grids stay as they are fitted.
    Each output then takes the learned rounding or the nearest, whichever loses less: none loses
    more than with `quantize`.

    Args:
        kernel: Weights, in float32.
        gram: XᵀX.
        format: With an integer grid.
        steps: Of Adam.
        learning_rate: Of Adam, for V.
        regularization: λ.
        annealing: β at first and at last.
        warmup: The part of the steps without regularization.
        range_fn: See `quantize`.

    Raises:
        ValueError: If the grid is not of integers, or a number is out of range.

    Reference:
        Nagel et al. 2020 (arXiv:2004.10568), equations 21 to 24.
    """
    grid = _integers(format)
    _refuse(steps, regularization, warmup)
    blocks, grids = fitted(kernel, format, range_fn)
    where = read(grids.parts)
    exact = (blocks - grid.decode(jnp.zeros_like(blocks), where)) * reciprocal(where.scale)
    below = jnp.floor(exact)

    def written(up: Blocks) -> Kernel:
        codes = jnp.clip(below + up, grid.lowest, grid.highest)
        return join(grid.decode(codes, where), kernel, format)

    nearest = join(grid.decode(grid.encode(blocks, where), where), kernel, format)
    start = unstretched(exact - below)
    unit = jnp.maximum(jnp.sum(lost(kernel - nearest, gram)), np.float32(1e-30))

    def objective(v: Blocks, strength: Array, beta: Array) -> Array:
        h = stretched(v)
        undecided = jnp.mean(1 - jnp.abs(2 * h - 1) ** beta)
        return jnp.sum(lost(kernel - written(h), gram)) / unit + strength * undecided

    schedule = _schedule(steps, regularization, annealing, warmup)
    v = _descended(objective, start, learning_rate, schedule)
    learned = written(jnp.where(v >= 0, jnp.float32(1), 0))
    costs = [lost(kernel - values, gram) for values in (learned, nearest)]
    values = jnp.where(costs[0] < costs[1], learned, nearest)
    return Rounded(quantize_on(values, grids.parts, format), jnp.sum(jnp.minimum(*costs)))


def stretched(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """h(V) = clip(σ(V)(ζ − γ) + γ, 0, 1), with ζ = 1.1 and γ = −0.1: reaches 0 and 1."""
    return jnp.clip(jax.nn.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0, 1)


def unstretched(h: Float[Array, "..."]) -> Float[Array, "..."]:
    """V with h(V) = h, for h from 0 to 1: the inverse of `stretched`."""
    part = (h - GAMMA) / (ZETA - GAMMA)
    return jnp.log(part) - jnp.log1p(-part)


def lost(change: Kernel, gram: Square) -> Float[Array, " outputs"]:
    """‖X D‖² of each output."""
    moved = jnp.matmul(gram, change, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(change * moved, axis=0)


def _schedule(
    steps: int, regularization: float | int, annealing: tuple[float, float], warmup: float | int
) -> tuple[Array, Array]:
    """λ and β of each step: none in the first, then β falls evenly."""
    after = (np.arange(steps) / steps - warmup) / (1 - warmup)
    strength = np.where(after >= 0, regularization, 0.0)
    beta = annealing[0] + (annealing[1] - annealing[0]) * np.clip(after, 0, 1)
    return jnp.asarray(strength, jnp.float32), jnp.asarray(beta, jnp.float32)


def _descended(
    objective: Callable[..., Array], v: Blocks, learning_rate: float, schedule: Any
) -> Blocks:
    tx = optax.adam(learning_rate)

    def step(carry: tuple[Blocks, Any], now: tuple[Array, Array]) -> tuple[Any, None]:
        v, state = carry
        slope = jax.grad(objective)(v, *now)
        with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to an int32 power
            updates, state = tx.update(slope, state)
        return (optax.apply_updates(v, updates), state), None

    (v, _), _ = jax.lax.scan(step, (v, tx.init(v)), schedule)
    return v


def _integers(format: Format) -> Integers:
    if not isinstance(format.grid, Integers):
        raise ValueError(
            f"adaround: {format} has no code above and below each weight; take a format of "
            "integers, or gptq."
        )
    return format.grid


def _refuse(steps: int, regularization: float | int, warmup: float | int) -> None:
    if not (steps >= 1 and regularization >= 0 and 0 <= warmup < 1):
        raise ValueError(
            f"adaround takes steps of 1 or more, regularization of 0 or more and warmup in [0, 1); "
            f"got steps={steps}, regularization={regularization}, warmup={warmup}."
        )
