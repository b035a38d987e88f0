"""Which values a code can stand for, whatever the scale: the part of a format that does arithmetic.

A grid fits itself to a range, finds the nearest code of a value, and reads a code back.
A new number format is a new frozen grid with these operations; nothing else changes.
`Integers` is here, `Floats` and `Codebook` have files of their own.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from wlab.quantization.rounding import ROUNDINGS, rounded

BOUNDS = ("qmax", "half", "full", "signed")
ZEROS = ("integer", "minimum")
Blocks: TypeAlias = Float[Array, "..."]  # float32; one scale serves the entries of a block
Noise: TypeAlias = Int[Array, "..."]  # 16 random bits an entry, for stochastic rounding


class Fit(NamedTuple):
    """Where a grid lies, for each block: float32 Blocks; None what the grid implies."""

    scale: Any
    zero_point: Any


@dataclass(frozen=True)
class Integers:
    """Evenly spaced codes 0 … 2^bits − 1: value = (code − zero_point) · scale.

    Zero is on the grid, unless `zero` is "minimum". Codes beyond the ends saturate.

    Attributes:
        bits: Bits of a code, 2 to 8.
        symmetric: The zero point is the constant 2^(bits − 1) and is not stored. Otherwise each
            block has one, and the range may lie askew.
        bound: Which step of a symmetric grid the end of the range falls on, at 4 bits:
            "qmax" is 7, codes −7 … 7, and the largest weight is met exactly;
            "half" is 7.5, codes −8 … 7, finer steps, the largest weight off by half a step;
            "full" is 8, codes −8 … 7, a positive largest weight off by a whole step;
            "signed" is 8 too, but the scale takes the sign that makes the largest weight
            code −8 and met exactly, of two equals the first; a zero may be read as −0.
        rounding: What a value halfway between two codes becomes: "half_even", "half_away"
            (from zero) or "half_up".
        zero: Without symmetry, what is stored of the zero point: "integer", a code; or
            "minimum", the value of code 0, value = code · scale + minimum, and a zero is kept
            only where the block's range ends at it.
    """

    bits: int
    symmetric: bool = True
    bound: str = "qmax"
    rounding: str = "half_even"
    zero: str = "integer"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2 to 8, got {self.bits}.")
        if self.bound not in BOUNDS:
            raise ValueError(f"bound must be one of {BOUNDS}, got {self.bound!r}.")
        if not self.symmetric and self.bound != "qmax":
            raise ValueError(
                f'An asymmetric grid has no "{self.bound}" bound; leave bound at "qmax".'
            )
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {ROUNDINGS}, got {self.rounding!r}.")
        if self.zero not in ZEROS:
            raise ValueError(f"zero must be one of {ZEROS}, got {self.zero!r}.")
        if self.symmetric and self.zero != "integer":
            raise ValueError('A symmetric grid has no minimum; leave zero at "integer".')

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
        return 2 ** (self.bits - 1) - {"qmax": 1.0, "half": 0.5}.get(self.bound, 0.0)

    @property
    def reach(self) -> str:
        """Which range it takes: "even" (−a, a), "zero" (low ≤ 0 ≤ high), "free" or "one_end"."""
        if self.symmetric:
            return "one_end" if self.bound == "signed" else "even"
        return "zero" if self.zero == "integer" else "free"

    @property
    def scaled(self) -> bool:
        """Whether each block has a scale: always."""
        return True

    @property
    def keeps_zero(self) -> bool:
        """Whether zero is a grid point in every block."""
        return self.zero == "integer"

    def scale(self, low: Blocks, high: Blocks) -> Blocks:
        """The width of a step for values in [low, high]."""
        extent = jnp.maximum(-low, high) if self.symmetric else high - low
        width = extent * np.float32(1 / self.steps)
        return jnp.where(high > -low, -width, width) if self.bound == "signed" else width

    def fit(self, low: Blocks, scale: Blocks) -> Fit:
        """The grid of this step width that reaches down to `low`."""
        if self.symmetric:
            return Fit(scale, None)
        if self.zero == "minimum":
            return Fit(scale, low)
        return Fit(scale, jnp.clip(jnp.round(-low * reciprocal(scale)), 0, self.highest))

    def nearest(self, x: Blocks, fit: Fit, noise: Noise | None = None) -> Blocks:
        """The nearest whole code, were there codes without end."""
        if self.zero == "minimum":
            x = x - fit.zero_point
        return rounded(x * reciprocal(fit.scale), self.rounding, noise) + self._zero(fit)

    def encode(self, x: Blocks, fit: Fit, noise: Noise | None = None) -> Blocks:
        """The nearest code, as a float; NaN where x or the scale is."""
        return jnp.clip(self.nearest(x, fit, noise), self.lowest, self.highest)

    def decode(self, codes: Blocks, fit: Fit) -> Blocks:
        """The value of a code."""
        if self.zero == "minimum":
            return codes * fit.scale + fit.zero_point
        return (codes - self._zero(fit)) * fit.scale

    def covers(self, x: Blocks, fit: Fit) -> Bool[Array, "..."]:
        """Whether the code of each entry does not saturate."""
        nearest = self.nearest(x, fit)
        return (nearest >= self.lowest) & (nearest <= self.highest)

    def _zero(self, fit: Fit) -> Blocks | float:
        if self.symmetric:
            return 2.0 ** (self.bits - 1)
        return 0.0 if self.zero == "minimum" else fit.zero_point

    def __str__(self) -> str:
        kind = "" if self.symmetric else " asymmetric"
        named = [n for n in (self.bound, self.rounding, self.zero) if n not in _UNSAID]
        return " ".join([f"int{self.bits}{kind}", *named])


_UNSAID = ("qmax", "half_even", "integer")


def reciprocal(scale: Blocks) -> Blocks:
    """XLA turns x / broadcast(s) into x · (1/s), which rounds differently: say so ourselves."""
    return jnp.float32(1) / scale
