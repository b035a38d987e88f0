"""What the filters of a first convolution look like: waves, and a picture of all of them."""

from math import isqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

Kernel = Shaped[np.ndarray, "height width inputs filters"]
PerFilter = Float[np.ndarray, " filters"]

_BINS = 64  # of the spectrum along each axis
_NEAR = 0.9  # frequencies this close belong to one wave, in cycles over the filter
_GREY = 127.5


class Waves(NamedTuple):
    """Of each filter, the plane wave that it resembles most.

    Attributes:
        share: The part of its energy that the wave holds, from 0 to 1.
        cycles: Periods of the wave over the filter.
        angle: The wave's direction in radians from the vertical axis, in [0, π).
    """

    share: PerFilter
    cycles: PerFilter
    angle: PerFilter

    @property
    def oriented(self) -> Bool[np.ndarray, " filters"]:
        """Filters that are one wave: most of the energy (0.6) in more than half a period."""
        return (self.share > 0.6) & (self.cycles > 0.5)


def waves(kernel: Kernel) -> Waves:
    """Finds the wave in each filter, from its power spectrum summed over the inputs.

    The wave is the largest entry of |F(u, v)|², F being the Fourier transform over the filter's
    pixels; its share is what lies within 0.9 cycles over the filter of it or of its mirror image.
    Trained first layers hold oriented waves (Krizhevsky et al. 2012, figure 3); the same pixels
    in another order hold none: compare `waves(shuffled(kernel))`.

    Raises:
        ValueError: If the kernel is not of four axes, is empty, or holds NaN or infinity.
    """
    _check(kernel)
    spectrum = np.fft.fft2(kernel.astype(np.float64), (_BINS, _BINS), axes=(0, 1))
    power = (np.abs(spectrum) ** 2).sum(2)
    sizes = kernel.shape[:2]
    along = [np.fft.fftfreq(_BINS) * size for size in sizes]
    u, v = np.meshgrid(*along, indexing="ij")
    top = power.reshape(-1, power.shape[-1]).argmax(0)
    u0, v0 = u.ravel()[top], v.ravel()[top]
    away = [np.hypot(u[..., None] - sign * u0, v[..., None] - sign * v0) for sign in (1, -1)]
    held = (power * (np.minimum(*away) < _NEAR)).sum((0, 1))
    total = power.sum((0, 1))
    share = np.divide(held, total, out=np.zeros_like(total), where=total > 0)
    return Waves(share, np.hypot(u0, v0), np.arctan2(v0, u0) % np.pi)


def shuffled(kernel: Kernel, seed: int = 0) -> Kernel:
    """The control: each filter's pixels in another order, the same for all, colours kept."""
    _check(kernel)
    pixels = kernel.reshape(-1, *kernel.shape[2:])
    order = np.random.default_rng(seed).permutation(len(pixels))
    return pixels[order].reshape(kernel.shape)


def sheet(kernel: Kernel, *, zoom: int = 4) -> UInt8[np.ndarray, "rows columns 3"]:
    """A picture of all filters on black, as square as it gets, each scaled by its largest entry.

    Args:
        kernel: Of one input, drawn in grey, or three: red, green, blue. Zero is the middle grey.
        zoom: Pixels a side of each weight.

    Raises:
        ValueError: If the kernel has another number of inputs, or as `waves`.
    """
    _check(kernel)
    height, width, inputs, filters = kernel.shape
    if inputs not in (1, 3):
        raise ValueError(f"a picture shows filters of 1 or 3 inputs, these have {inputs}.")
    tiles = np.moveaxis(kernel.astype(np.float64), -1, 0)
    largest = np.abs(tiles).max((1, 2, 3), keepdims=True)
    tiles = np.divide(tiles, largest, out=np.zeros_like(tiles), where=largest > 0)
    tiles = np.broadcast_to(np.rint(_GREY + _GREY * tiles), (filters, height, width, 3))
    tiles = np.pad(tiles.repeat(zoom, 1).repeat(zoom, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = isqrt(filters - 1) + 1
    rows = -(-filters // columns)
    tiles = np.pad(tiles, ((0, rows * columns - filters), (0, 0), (0, 0), (0, 0)))
    grid = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * tiles.shape[1], columns * tiles.shape[2], 3).astype(np.uint8)


def _check(kernel: Kernel) -> None:
    if kernel.ndim != 4 or not kernel.size:
        raise ValueError(
            f"filters have a shape (height, width, inputs, filters), got {kernel.shape}."
        )
    if not np.isfinite(kernel.astype(np.float64)).all():
        raise ValueError("the filters hold NaN or infinity.")
