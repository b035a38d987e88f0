"""Grids that list their values: NormalFloat 4, binary, ternary, shared weights."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from wlab.quantization.grids import Blocks, Fit, Noise, reciprocal
from wlab.quantization.rounding import CHANCES

TIES = ("lower", "upper")


@dataclass(frozen=True)
class Codebook:
    """A code is the place of a value in an ascending list; value = values[code] · scale.

    The scale makes `end` the largest magnitude of the block. A value midway between two goes to
    the `ties` one of them; values beyond the ends of the list saturate.

    Attributes:
        values: 2 to 256 ascending numbers, taken as float32.
        name: What to call the list in reports.
        ties: "lower" or "upper".
        end: The largest magnitude in the list if None; larger, where the list averages weights.
    """

    values: tuple[float, ...]
    name: str = "codebook"
    ties: str = "lower"
    end: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) <= 256:
            raise ValueError(f"A codebook has 2 to 256 values, got {len(self.values)}.")
        finite = np.isfinite(np.asarray(self.values, np.float32)).all()
        if not finite or not all(a < b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError(f"A codebook's values must be finite and ascend, got {self.values}.")
        if self.ties not in TIES:
            raise ValueError(f"ties must be one of {TIES}, got {self.ties!r}.")
        if not np.isfinite(self.steps) or self.steps < max(-self.values[0], self.values[-1]):
            raise ValueError(f"end must be no smaller than any value, got {self.end}.")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (len(self.values) - 1).bit_length()

    @property
    def symmetric(self) -> bool:
        """Whether no zero point is stored: always."""
        return True

    @property
    def scaled(self) -> bool:
        """Whether each block has a scale: always."""
        return True

    @property
    def reach(self) -> str:
        """Which range it takes: the same on both sides."""
        return "even"

    @property
    def keeps_zero(self) -> bool:
        """Whether zero is a grid point."""
        return 0.0 in self.values

    @property
    def steps(self) -> float:
        """What the end of the range is divided by."""
        return float(self.end or max(-self.values[0], self.values[-1]))

    def scale(self, low: Blocks, high: Blocks) -> Blocks:
        """What maps the larger end of [low, high] to `end`."""
        return jnp.maximum(-low, high) * np.float32(1 / self.steps)

    def fit(self, low: Blocks, scale: Blocks) -> Fit:
        """The values times this scale."""
        del low
        return Fit(scale, None)

    def encode(self, x: Blocks, fit: Fit, noise: Noise | None = None) -> Blocks:
        """The place of the nearest value, as a float; NaN where x or the scale is."""
        y = x * reciprocal(fit.scale)
        if noise is None:
            code = _place(y, self._midpoints, self.bits, self.ties)
        else:
            code = self._by_chance(y, noise)
        return jnp.where(jnp.isnan(y), jnp.nan, code.astype(jnp.float32))

    def decode(self, codes: Blocks, fit: Fit) -> Blocks:
        """The value in a place, times the scale."""
        table = np.asarray(self.values, np.float32)
        return _looked_up(table, codes.astype(jnp.int32)) * fit.scale

    def covers(self, x: Blocks, fit: Fit) -> Bool[Array, "..."]:
        """Whether each entry lies between the first value and the last."""
        y = x * reciprocal(fit.scale)
        return (y >= np.float32(self.values[0])) & (y <= np.float32(self.values[-1]))

    @property
    def _midpoints(self) -> np.ndarray:
        values = np.asarray(self.values, np.float64)
        return ((values[1:] + values[:-1]) / 2).astype(np.float32)

    def _by_chance(self, y: Blocks, noise: Noise) -> Int[Array, "..."]:
        """The value below or above, on a lattice of 2^-22 of the largest, where sums are exact."""
        unit = np.float32(2.0**22 / self.steps)
        lattice = np.rint(np.asarray(self.values, np.float64) * (2.0**22 / self.steps))
        lattice = lattice.astype(np.int32)
        at = jnp.round(jnp.clip(y, self.values[0], self.values[-1]) * unit).astype(jnp.int32)
        below = _place(at, lattice[1:], self.bits, "upper")
        below = jnp.minimum(below, len(lattice) - 2)
        start, end = _looked_up(lattice, below), _looked_up(lattice, below + 1)
        chance = (at - start).astype(jnp.float32) / (end - start).astype(jnp.float32)
        return below + jnp.where(noise < jnp.round(chance * CHANCES).astype(jnp.int32), 1, 0)

    def __str__(self) -> str:
        return self.name


def _place(
    y: Float[Array, "..."] | Int[Array, "..."], ascending: np.ndarray, bits: int, ties: str
) -> Int[Array, "..."]:
    """How many of the thresholds lie below y, by halving; one that is met counts if "upper"."""
    last = np.inf if ascending.dtype == np.float32 else np.iinfo(np.int32).max
    table = np.full(2**bits - 1, last, ascending.dtype)
    table[: len(ascending)] = ascending

    def above(threshold: Any) -> Bool[Array, "..."]:
        return y > threshold if ties == "lower" else y >= threshold

    half = 2 ** (bits - 1)
    place = jnp.where(above(table[half - 1]), half, 0)
    for step in (1 << i for i in reversed(range(bits - 1))):
        place = jnp.where(above(_looked_up(table, place + (step - 1))), place + step, place)
    return jnp.minimum(place, len(ascending))


def _looked_up(table: np.ndarray, places: Int[Array, "..."]) -> Array:
    """An Explicit mesh wants to be told where the result goes: where the places are."""
    sharding = jax.typeof(places).sharding
    where = None if all(at is None for at in sharding.spec) else sharding
    return jnp.asarray(table).at[places].get(mode="clip", out_sharding=where)
