"""Which values a code can stand for, whatever the scale: the part of a format that does arithmetic.

A grid fits itself to a range, finds the nearest code of a value, and reads a code back.
A new number format is a new frozen grid with these operations; nothing else changes.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

BOUNDS = ("qmax", "half")
Blocks: TypeAlias = Float[Array, "..."]  # float32; one scale serves the entries of a block


class Fit(NamedTuple):
    """Where a grid lies, for each block: float32; no zero point where the grid implies it."""

    scale: Blocks
    zero_point: Blocks | None


@dataclass(frozen=True)
class Integers:
    """Evenly spaced codes 0 … 2^bits − 1: value = (code − zero_point) · scale.

    Zero is always on the grid. Rounding is half to even; codes beyond the ends saturate.

    Attributes:
        bits: Bits of a code, 2 to 8.
        symmetric: The zero point is the constant 2^(bits − 1) and is not stored. Otherwise each
            block has an integer one, and the range may lie askew.
        bound: Which step of a symmetric grid the end of the range falls on, at 4 bits:
            "qmax" is 7, codes −7 … 7, and the largest weight is met exactly;
            "half" is 7.5, codes −8 … 7, finer steps, the largest weight off by half a step.
    """

    bits: int
    symmetric: bool = True
    bound: str = "qmax"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2 to 8, got {self.bits}.")
        if self.bound not in BOUNDS:
            raise ValueError(f"bound must be one of {BOUNDS}, got {self.bound!r}.")
        if not self.symmetric and self.bound != "qmax":
            raise ValueError('An asymmetric grid has no "half" bound; leave bound at "qmax".')

    @property
    def lowest(self) -> int:
        """The smallest code in use."""
        return 1 if self.symmetric and self.bound == "qmax" else 0

    @property
    def highest(self) -> int:
        """The largest code in use."""
        return 2**self.bits - 1

    @property
    def steps(self) -> float:
        """Steps in the range: from zero to its end if symmetric, else from end to end."""
        if not self.symmetric:
            return float(self.highest)
        return 2 ** (self.bits - 1) - (1.0 if self.bound == "qmax" else 0.5)

    def scale(self, low: Blocks, high: Blocks) -> Blocks:
        """The width of a step for values in [low, high], low ≤ 0 ≤ high."""
        extent = jnp.maximum(-low, high) if self.symmetric else high - low
        return extent * np.float32(1 / self.steps)

    def fit(self, low: Blocks, scale: Blocks) -> Fit:
        """The grid of this step width that reaches down to `low`."""
        if self.symmetric:
            return Fit(scale, None)
        return Fit(scale, jnp.clip(jnp.round(-low * _reciprocal(scale)), 0, self.highest))

    def nearest(self, x: Blocks, fit: Fit) -> Blocks:
        """The nearest whole code, were there codes without end."""
        return jnp.round(x * _reciprocal(fit.scale)) + self._zero(fit)

    def encode(self, x: Blocks, fit: Fit) -> Blocks:
        """The nearest code, as a float; NaN where x or the scale is."""
        return jnp.clip(self.nearest(x, fit), self.lowest, self.highest)

    def decode(self, codes: Blocks, fit: Fit) -> Blocks:
        """The value of a code."""
        return (codes - self._zero(fit)) * fit.scale

    def covers(self, x: Blocks, fit: Fit) -> Bool[Array, "..."]:
        """Whether the code of each entry does not saturate."""
        nearest = self.nearest(x, fit)
        return (nearest >= self.lowest) & (nearest <= self.highest)

    def _zero(self, fit: Fit) -> Blocks | float:
        return 2.0 ** (self.bits - 1) if fit.zero_point is None else fit.zero_point

    def __str__(self) -> str:
        kind = "" if self.symmetric else " asymmetric"
        return f"int{self.bits}{kind}" + (" half" if self.bound == "half" else "")


def _reciprocal(scale: Blocks) -> Blocks:
    """XLA turns x / broadcast(s) into x · (1/s), which rounds differently: say so ourselves."""
    return jnp.float32(1) / scale
