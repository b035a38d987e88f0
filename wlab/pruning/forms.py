"""Forms of sparse arrays: how it is written down which entries are kept, and in how many bytes.

An entry is kept if any of its bits is set: −0.0 and NaN are, so only +0.0 is left out.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Shaped

_MOST_NEIGHBOURS = 256


@dataclass(frozen=True)
class Bitmask:
    """One bit for each entry in flat C order, the first one the lowest bit of the first byte.

    ⌈n / 8⌉ bytes, and those of the k values.
    """

    def __str__(self) -> str:
        return "bitmask"


@dataclass(frozen=True)
class NM:
    """Places for `keep` of every `of` neighbours along an axis: N:M sparsity.

    ⌈log₂ of⌉ bits a place, lowest bit first, and the values, kept or not. A last short group
    takes as much as a whole one.

    Attributes:
        keep: Places in a group; those not needed hold zeros.
        of: Neighbours in a group, at most 256.
        axis: Along which neighbours stand: the one that is summed over, for hardware.

    Raises:
        ValueError: If not 1 <= keep <= of, or `of` is not from 2 to 256.
    """

    keep: int
    of: int
    axis: int = -2

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.of or not 2 <= self.of <= _MOST_NEIGHBOURS:
            raise ValueError(
                f"NM has places for 1 to `of` of every `of` neighbours, 2 to {_MOST_NEIGHBOURS}; "
                f"got {self.keep} of {self.of}."
            )

    @property
    def bits(self) -> int:
        """Bits of a place."""
        return (self.of - 1).bit_length()

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"


Form: TypeAlias = Bitmask | NM
"""How it is written down which entries are kept."""


def packed_bytes(array: Any, form: Form) -> int | None:
    """The bytes of `compress(array, form)`; None if the array does not fit the form."""
    array = np.asarray(array)
    if isinstance(form, Bitmask):
        return -(-array.size // 8) + int(np.count_nonzero(is_kept(array))) * array.itemsize
    if not -array.ndim <= form.axis < array.ndim:
        return None
    kept = np.count_nonzero(is_kept(grouped(array, form)), axis=-1)
    if kept.max(initial=0) > form.keep:
        return None
    return -(-kept.size * form.keep * form.bits // 8) + kept.size * form.keep * array.itemsize


def is_kept(array: Shaped[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """True where any bit is set, as in −0.0 and in NaN."""
    size = array.itemsize
    word = next(n for n in (8, 4, 2, 1) if size % n == 0)
    words = np.ascontiguousarray(array).reshape(-1).view(f"u{word}") != 0
    if size > word:
        words = words.reshape(-1, size // word).any(axis=-1)
    return words.reshape(array.shape)


def group_shape(shape: tuple[int, ...], form: NM) -> tuple[int, ...]:
    """`(…, groups)`: the shape with the form's axis moved last and counted in groups.

    Raises:
        ValueError: If the shape has no such axis.
    """
    if not -len(shape) <= form.axis < len(shape):
        raise ValueError(f"{form} has axis {form.axis}, but the array is of rank {len(shape)}.")
    rest = list(shape)
    size = rest.pop(form.axis)
    return (*rest, -(-size // form.of))


def grouped(array: Shaped[np.ndarray, "..."], form: NM) -> Shaped[np.ndarray, "... of"]:
    """The array in groups of neighbours, the form's axis last and filled up with zeros."""
    shape = group_shape(array.shape, form)
    rows = np.zeros((*shape[:-1], shape[-1] * form.of), array.dtype)
    rows[..., : array.shape[form.axis]] = np.moveaxis(array, form.axis, -1)
    return rows.reshape(*shape, form.of)
