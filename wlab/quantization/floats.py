"""Floating-point grids of a few bits: fp4, fp6, fp8, float16, bfloat16.

Codes are the bit patterns that the formats themselves define: sign, exponent, significand. All
work is on the bits of a float32, so every backend gives the same codes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from wlab.quantization.grids import Blocks, Fit, Noise, reciprocal
from wlab.quantization.rounding import CHANCES

SPECIALS = ("ieee", "nan", "none")
_SIGNIFICAND = 23  # stored bits of float32's
_BIAS = 127
_INFINITE = 0x7F800000  # the bits of float32's infinity


@dataclass(frozen=True)
class Floats:
    r"""The numbers $\pm 2^{e - bias} (1 + m / 2^M)$ and, with e = 0, $\pm 2^{1 - bias} m / 2^M$.

    The bias is 2^(exponent_bits − 1) − 1. Rounding is half to even; numbers beyond the largest
    saturate to it; a zero keeps its sign. With a scale the largest weight of a block becomes the
    largest number, and what is not finite makes its block NaN, as in every scaled format.
    Without one, NaN stays NaN, and an infinity stays one, or becomes NaN where there is none.

    Attributes:
        exponent_bits: Bits of the exponent, 1 to 8.
        significand_bits: Stored bits of the significand.
        special: Which codes are no numbers: those with the largest exponent ("ieee"), only
            the largest magnitude ("nan", the "fn" of e4m3fn), or none.
        scaled: Whether each block has a scale; otherwise it is a plain cast.

    Reference:
        Micikevicius et al. 2022 (arXiv:2209.05433), table 1, for e4m3 and e5m2; OCP
        Microscaling Formats v1.0 (2023), section 5.3, for fp6 and fp4.
    """

    exponent_bits: int
    significand_bits: int
    special: str = "ieee"
    scaled: bool = True

    def __post_init__(self) -> None:
        widths = (self.exponent_bits, self.significand_bits)
        if self.special not in SPECIALS:
            raise ValueError(f"special must be one of {SPECIALS}, got {self.special!r}.")
        if not 1 <= self.exponent_bits <= 8 or not 0 <= self.significand_bits <= 10:
            raise ValueError(f"Floats takes 1 to 8 and 0 to 10 bits, got {widths}.")
        if self.exponent_bits == 1 and self.special == "ieee":
            raise ValueError("Floats: one exponent bit leaves no numbers under 'ieee'.")
        if self.scaled and self.bits > 8:
            raise ValueError(f"A scaled grid has at most 8 bits, got {widths}; drop the scale.")
        if not self.scaled and self.special == "none":
            raise ValueError("Without a scale there must be a NaN: special='ieee' or 'nan'.")

    @property
    def bits(self) -> int:
        """Bits of a code, the sign among them."""
        return 1 + self.exponent_bits + self.significand_bits

    @property
    def symmetric(self) -> bool:
        """Whether no zero point is stored: always."""
        return True

    @property
    def reach(self) -> str:
        """Which range it takes: the same on both sides."""
        return "even"

    @property
    def keeps_zero(self) -> bool:
        """Whether zero is a grid point: always."""
        return True

    @property
    def bias(self) -> int:
        """What is taken from the stored exponent."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def top(self) -> int:
        """The code of the largest number."""
        top = 1 << (self.exponent_bits + self.significand_bits)
        return top - {"ieee": 1 << self.significand_bits, "nan": 1, "none": 0}[self.special] - 1

    @property
    def steps(self) -> float:
        """The largest number: what the end of the range is divided by."""
        exponent, m = divmod(self.top, 1 << self.significand_bits)
        return 2.0 ** (exponent - self.bias) * (1 + m / (1 << self.significand_bits))

    def scale(self, low: Blocks, high: Blocks) -> Blocks:
        """What maps the larger end of [low, high] to the largest number."""
        return jnp.maximum(-low, high) * np.float32(1 / self.steps)

    def fit(self, low: Blocks, scale: Blocks) -> Fit:
        """The grid of this scale."""
        del low
        return Fit(scale if self.scaled else None, None)

    def encode(self, x: Blocks, fit: Fit, noise: Noise | None = None) -> Blocks:
        """The code of the nearest number, as a float; NaN where the scale is."""
        y = x if fit.scale is None else x * reciprocal(fit.scale)
        bits = jax.lax.bitcast_convert_type(y, jnp.int32)
        magnitude, sign = bits & 0x7FFFFFFF, (bits >> 31) & 1
        code = jnp.minimum(_nearest(magnitude, self, noise), self.top)
        if fit.scale is None:
            code = jnp.where(magnitude == _INFINITE, self._infinity, code)
            code = jnp.where(magnitude > _INFINITE, self._nan, code)
        code = (code + (sign << (self.bits - 1))).astype(jnp.float32)
        return code if fit.scale is None else jnp.where(jnp.isnan(y), jnp.nan, code)

    def decode(self, codes: Blocks, fit: Fit) -> Blocks:
        """The number of a code, times the scale."""
        values = _value(codes.astype(jnp.int32), self)
        return values if fit.scale is None else values * fit.scale

    def covers(self, x: Blocks, fit: Fit) -> Bool[Array, "..."]:
        """Whether each entry, rounded, does not saturate."""
        y = x if fit.scale is None else x * reciprocal(fit.scale)
        magnitude = jax.lax.bitcast_convert_type(y, jnp.int32) & 0x7FFFFFFF
        return _nearest(magnitude, self, None) <= self.top

    @property
    def _infinity(self) -> int:
        """IEEE's follows the largest number; e4m3fn has but a NaN there."""
        return self.top + 1

    @property
    def _nan(self) -> int:
        if self.special == "nan":
            return self.top + 1
        return self.top + 1 + (1 << max(self.significand_bits - 1, 0))

    def __str__(self) -> str:
        widths = (self.exponent_bits, self.significand_bits)
        named = f"fp{self.bits} e{widths[0]}m{widths[1]}"
        return {(5, 10): "fp16", (8, 7): "bf16"}.get(
            widths, named if self.scaled else f"{named} cast"
        )


def _nearest(magnitude: Int[Array, "..."], grid: Floats, noise: Noise | None) -> Int[Array, "..."]:
    """Codes without end of float32 magnitudes, given as bits."""
    drop = _SIGNIFICAND - grid.significand_bits
    code, rest = magnitude >> drop, magnitude & ((1 << drop) - 1)
    if noise is None:
        half = 1 << (drop - 1)
        up = (rest > half) | ((rest == half) & (code & 1 == 1))
    else:
        up = noise < _sixteen_bits(rest, drop)
    normal = code + up.astype(jnp.int32) - ((_BIAS - grid.bias) << grid.significand_bits)
    if grid.bias == _BIAS:
        return normal
    smallest = (_BIAS + 1 - grid.bias) << _SIGNIFICAND
    return jnp.where(magnitude < smallest, _below_normal(magnitude, grid, noise), normal)


def _below_normal(
    magnitude: Int[Array, "..."], grid: Floats, noise: Noise | None
) -> Int[Array, "..."]:
    """Codes where the grid is evenly spaced; a power of two times a float32 is exact."""
    y = jax.lax.bitcast_convert_type(magnitude, jnp.float32)
    y = jnp.minimum(y, np.float32(2.0 ** (1 - grid.bias)))
    y = y * np.float32(2.0 ** (grid.bias - 1 + grid.significand_bits))
    if noise is None:
        return jnp.round(y).astype(jnp.int32)
    fixed = jnp.round(y * CHANCES).astype(jnp.int32)
    return (fixed >> 16) + jnp.where(noise < (fixed & (CHANCES - 1)), 1, 0)


def _sixteen_bits(rest: Int[Array, "..."], width: int) -> Int[Array, "..."]:
    return rest >> (width - 16) if width >= 16 else rest << (16 - width)


def _value(code: Int[Array, "..."], grid: Floats) -> Float[Array, "..."]:
    sign = (code >> (grid.bits - 1)) & 1
    code = code & ((1 << (grid.bits - 1)) - 1)
    drop = _SIGNIFICAND - grid.significand_bits
    bits = (code << drop) + ((_BIAS - grid.bias) << _SIGNIFICAND)
    value = jax.lax.bitcast_convert_type(bits, jnp.float32)
    if grid.bias != _BIAS:
        step = np.float32(2.0 ** (1 - grid.bias - grid.significand_bits))
        value = jnp.where(code < 1 << grid.significand_bits, code.astype(jnp.float32) * step, value)
    if grid.special == "ieee":
        value = jnp.where(code > grid.top, jnp.where(code > grid.top + 1, jnp.nan, jnp.inf), value)
    if grid.special == "nan":
        value = jnp.where(code > grid.top, jnp.nan, value)
    return jnp.where(sign == 1, -value, value)
