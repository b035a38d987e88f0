"""How an optimizer's moments are written in few bits: the codes of a root of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from wlab.quantization.codebooks import Codebook
from wlab.quantization.formats import Format, integer
from wlab.quantization.grids import Fit

ROOTS = (1, 2, 4)
BLOCKS = {8: 256, 4: 128}  # entries with a common scale, by bits
FIRST: tuple[str, ...] = ("mu", "trace")
SECOND: tuple[str, ...] = ("nu", "nu_max", "sum_of_squares")


@dataclass(frozen=True)
class Moment:
    r"""A moment x is kept as the code of a root of it: x = sign(u) · |u|^root.

    The moments of one block span many decades, which evenly spaced codes cannot; those of a
    fourth root of 8 bits reach down to 2·10⁻¹⁰ of the largest if they need no sign, and to
    4·10⁻⁹ with one.

    Attributes:
        format: The grid of u, and its blocks along the last axis; without symmetry x must not
            be negative, and no zero points are kept.
        root: 1, 2 or 4.
    """

    format: Format
    root: int = 1

    def __post_init__(self) -> None:
        format = self.format
        if self.root not in ROOTS:
            raise ValueError(f"Moment: root must be one of {ROOTS}, got {self.root}.")
        if format.axis != -1 or not isinstance(format.group_size, int):
            raise ValueError(
                f"Moment: blocks lie along the last axis; give {format} axis=-1 and a group_size."
            )
        if not format.grid.keeps_zero or format.outer or format.coding != "stored":
            raise ValueError(
                f"Moment: {format} must have a zero, one level of scales, and stored ones."
            )

    @property
    def signed(self) -> bool:
        """Whether x may be negative."""
        grid = self.format.grid
        return grid.symmetric and not (isinstance(grid, Codebook) and grid.values[0] >= 0)

    @cached_property
    def least(self) -> float:
        """The smallest u above zero, in scales."""
        grid = self.format.grid
        with jax.ensure_compile_time_eval():
            codes = jnp.arange(2**grid.bits, dtype=jnp.float32)
            values = np.asarray(grid.decode(codes, Fit(jnp.float32(1), jnp.float32(0))))
        return float(values[np.isfinite(values) & (values > 0)].min())


def moment_parts(bits: int = 8, *, block_size: int | None = None) -> Mapping[str, Moment]:
    """How each moment of optax's optimizers is kept, by the name of its field.

    `mu` and `trace` have a sign; `nu`, `nu_max` and `sum_of_squares` have none. Of 8 bits they
    are evenly spaced fourth roots, in blocks of 256: closer than the `dynamic` codebook of 8
    bits and several times quicker. Of 4 bits, in blocks of 128, first moments have the even
    `dynamic` codebook, much as in Li et al., and second ones fourth roots.

    Args:
        bits: 8 or 4.
        block_size: Entries with a common float32 scale.

    Raises:
        ValueError: If there are no such bits.

    Reference:
        Dettmers et al. 2021 (arXiv:2110.02861), for blocks; Li, Chen, Zhu 2023
        (arXiv:2309.01507), for 4 bits and what zeros do to second moments.
    """
    if bits not in BLOCKS:
        raise ValueError(
            f"Moments are kept in {sorted(BLOCKS)} bits, got {bits}; for others give `parts`."
        )
    size = BLOCKS[bits] if block_size is None else block_size
    even = Moment(integer(bits, axis=-1, group_size=size), root=4)
    listed = Moment(Format(dynamic(4, even=True), axis=-1, group_size=size))
    first = even if bits == 8 else listed
    second = Moment(integer(bits, symmetric=False, axis=-1, group_size=size), root=4)
    return dict.fromkeys(FIRST, first) | dict.fromkeys(SECOND, second)


def dynamic(bits: int = 8, *, signed: bool = True, even: bool = False) -> Codebook:
    r"""Values spread over decades: few of the small ones, many of the large ones.

    Decade e, from $10^{-e-1}$ to $10^{-e}$, is cut into $2^{b-2-e}$ equal parts, e = 0 … b − 2,
    each with the value in its middle; 0 and 1 belong to it too. With a sign the values are taken
    on both sides, but not −1; without one there are twice as many parts.

    Args:
        bits: b, 3 to 8.
        signed: Whether there are negative values.
        even: Puts 1 and −1 in the place of the outermost middles. As published, a block whose
            largest entry is negative loses a part of it whenever it is written again.

    Raises:
        ValueError: If `bits` is out of range, or what has no sign should be even.

    Reference:
        Dettmers et al. 2021 (arXiv:2110.02861): dynamic tree quantization, and without a sign.
    """
    if not 3 <= bits <= 8:
        raise ValueError(f"dynamic: bits must be 3 to 8, got {bits}.")
    if even and not signed:
        raise ValueError("dynamic: only what has a sign can be even on both sides.")
    middles: list[float] = []
    for decade in range(bits - 1):
        parts = 2 ** (bits - 2 - decade) * (1 if signed else 2)
        inside = 0.1 + 0.9 * (np.arange(parts) + 0.5) / parts
        middles += (inside * 10.0**-decade).tolist()
    positive = [value for value in middles if not even or value < max(middles)] + [1.0]
    negative = [-value for value in (positive if even else middles)] if signed else []
    kind = " even" if even else "" if signed else " unsigned"
    return Codebook(tuple(sorted([*negative, 0.0, *positive])), f"dynamic{bits}{kind}")
