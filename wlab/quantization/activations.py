"""Inputs of products in few bits while training: clipped at a level that is learned or measured."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import graph
from wlab.transform import Params
from wlab.tree import Rules, match

_LEAST = np.float32(2.0**-100)  # a level that is not positive clips to next to nothing


@dataclass(frozen=True)
class Clip:
    """How an input is rounded: evenly from zero to the level, or from −level to level if signed.

    Attributes:
        bits: 2 to 8; 2^bits − 1 steps, or 2^(bits − 1) − 1 on either side of zero.
        signed: Whether inputs are negative too. Those of a product behind a ReLU are not.
    """

    bits: int
    signed: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2 to 8, got {self.bits}.")

    @property
    def steps(self) -> int:
        """Steps from zero to the level."""
        return 2 ** (self.bits - self.signed) - 1


def pact(x: Float[Array, "*shape"], level: Float[Array, ""], clip: Clip) -> Float[Array, "*shape"]:
    r"""Clips at a level α and rounds evenly below it, with a gradient for α.

    $y = \lfloor \mathrm{clip}(x, 0, \alpha) \cdot n/\alpha \rceil \cdot \alpha/n$ with n the steps
    of the clip. ∂y/∂x is 1 where 0 ≤ x < α and 0 elsewhere; ∂y/∂α is 1 where x ≥ α and 0
    elsewhere. Signed, both hold for |x|, and ∂y/∂α has the sign of x. Weight decay of α is part of
    the method: it draws the level down to finer steps.

    Args:
        x: Inputs.
        level: α, positive, in float32.
        clip: The number of bits.

    Reference:
        Choi et al. 2018 (arXiv:1805.06085), equations 1 to 3.
    """
    return _pact(x, level, clip)


def fake_quant_inputs(read: graph.Graph, rules: Rules[Clip | None]) -> Callable[..., Any]:
    """The function that was read, with the inputs of chosen products clipped and rounded by `pact`.

    The result is a function of `(params, levels, *inputs)`, with a level for each path that has a
    clip. Levels that are trained beside the weights are PACT's; levels that are only given, as
    `levels_of` makes them, are static ranges.

    Args:
        read: `graph.read(fn, params, *inputs)`.
        rules: Ordered `(regex, Clip or None)` over the leaves that inputs are multiplied with.

    Raises:
        ValueError: If a leaf has no rule or a rule no leaf, or a leaf with a clip is in no product
            with an input; from the result, if a level is missing or there is one too many.
    """
    clips = {path: clip for path, clip in match(rules, read.paths, purpose="clip").items() if clip}
    _replaced(read, clips, dict.fromkeys(clips, jnp.ones(())))  # refuses leaves without inputs

    def fn(params: Params, levels: Mapping[str, Array], *inputs: Any) -> Any:
        if set(levels) != set(clips):
            raise ValueError(
                f"fake_quant_inputs: levels are needed for {sorted(clips)}, and given for "
                f"{sorted(levels)}."
            )
        return _replaced(read, clips, levels)(params, *inputs)

    return fn


def levels_of(found: Mapping[str, Array], rules: Rules[Clip | None]) -> dict[str, Float[Array, ""]]:
    """The largest magnitude met at each leaf with a clip: levels to start with, or to keep.

    Of later batches an average is `optax.incremental_update(new, old, 1 - decay)`.

    Args:
        found: From `calibration.collect(fn, params, batches, calibration.absmax())`.
        rules: As given to `fake_quant_inputs`; those for leaves that were not met are left out.

    Raises:
        ValueError: If a leaf has no rule.
    """
    used = [(regex, clip) for regex, clip in rules if any(re.fullmatch(regex, p) for p in found)]
    clips = match(used, list(found), purpose="clip")
    return {path: jnp.max(x).astype(jnp.float32) for path, x in found.items() if clips[path]}


def _replaced(
    read: graph.Graph, clips: Mapping[str, Clip], levels: Mapping[str, Array]
) -> Callable[..., Any]:
    operations: list[tuple[str, graph.Operation | None]] = [
        (re.escape(path), graph.before(partial(_pact_of, level=levels[path], clip=clip)))
        for path, clip in clips.items()
    ]
    return graph.replace(read, [*operations, (".*", None)])


def _pact_of(x: Array, level: Array, clip: Clip) -> Array:
    return pact(x, level, clip)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _pact(x: Array, level: Array, clip: Clip) -> Array:
    end = jnp.maximum(level, _LEAST)
    low = -end if clip.signed else jnp.zeros_like(end)
    codes = jnp.round(jnp.clip(x.astype(jnp.float32), low, end) * (clip.steps / end))
    return (codes * (end / clip.steps)).astype(x.dtype)


@_pact.defjvp
def _pact_jvp(clip, primals, tangents):
    (x, level), (moved, level_moved) = primals, tangents
    value, end = x.astype(jnp.float32), jnp.maximum(level, _LEAST)
    within = (jnp.abs(value) < end) & (clip.signed | (value >= 0))
    beyond = jnp.where(value >= end, 1.0, jnp.where(clip.signed & (value <= -end), -1.0, 0.0))
    tangent = jnp.where(within, moved.astype(jnp.float32), 0) + beyond * level_moved
    return _pact(x, level, clip), tangent.astype(x.dtype)
