"""Convolutions whose gradients are as fast in a loop as outside."""

from functools import partial
from typing import Any, TypeAlias

import jax
from jaxtyping import Array, Float

from wlab.models.small_maps import with_zeros

_Maps: TypeAlias = Float[Array, "batch height width channels"]
_Kernel: TypeAlias = Float[Array, "rows columns channels outputs"]
_Outputs: TypeAlias = Float[Array, "batch _height _width outputs"]
_Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def looped_convolution(
    lhs: Array, rhs: Array, window_strides: Any, padding: Any, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated`, for networks that are trained within a loop on CPUs.

    The same function with the same gradients. XLA orders the axes of convolutions as its fast
    code for CPUs wants them, but not in the bodies of `lax.scan`, `map` and `while_loop`, and so
    neither in `training.population`: there a step of LeNet-5 takes 305 ms, with this 23. Any Flax
    layer takes it:

        nnx.Conv(20, 50, (5, 5), conv_general_dilated=looped_convolution, rngs=rngs)

    What it cannot do that JAX's can: forward-mode derivatives, gradients of batches that are split
    over a mesh of explicit axes, or in `shard_map` with `check_vma`. Strides, dilations and groups
    are left to JAX, as slow as they are.

    Args:
        lhs: The maps.
        rhs: The kernel.
        window_strides: As JAX takes it, and so are the padding and all others.
    """
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, options.get("dimension_numbers"))
    if not _plain(lhs, rhs, window_strides, numbers, options):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), padding)
    (top, bottom), (left, right) = padding
    pads = ((int(top), int(bottom)), (int(left), int(right)))
    return _convolution(lhs, rhs, pads, options.get("precision"))


def _plain(lhs: Array, rhs: Array, strides: Any, numbers: Any, options: dict[str, Any]) -> bool:
    """Whether it is the convolution whose gradients are written here."""
    ones = (1, 1)
    given = {name: value for name, value in options.items() if value is not None}
    return (
        lhs.ndim == 4
        and lhs.dtype == rhs.dtype
        and numbers == jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
        and tuple(strides) == ones
        and all(tuple(given.get(name, ones)) == ones for name in ("lhs_dilation", "rhs_dilation"))
        and given.get("feature_group_count", 1) == given.get("batch_group_count", 1) == 1
        and not given.keys() & {"preferred_element_type", "out_sharding"}
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(maps: _Maps, kernel: _Kernel, pads: _Pads, precision: Any) -> _Outputs:
    if any(n < k for n, k in zip(maps.shape[1:3], kernel.shape[:2], strict=True)):
        maps, pads = with_zeros(maps, pads), ((0, 0), (0, 0))
    return jax.lax.conv_general_dilated(
        maps, kernel, (1, 1), pads, dimension_numbers=_LAYOUT, precision=precision
    )


def _forward(maps: _Maps, kernel: _Kernel, pads: _Pads, precision: Any) -> tuple[_Outputs, Any]:
    return _convolution(maps, kernel, pads, precision), (maps, kernel)


def _backward(
    pads: _Pads, precision: Any, kept: tuple[_Maps, _Kernel], seen: _Outputs
) -> tuple[_Maps, _Kernel]:
    """Both gradients are convolutions again; their axes are put in order before and after."""
    maps, kernel = kept
    (top, bottom), (left, right) = pads
    rows, columns = kernel.shape[0] - 1, kernel.shape[1] - 1
    around = ((rows - top, rows - bottom), (columns - left, columns - right))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    channels_first, batch_inside = maps.transpose(3, 1, 2, 0), seen.transpose(1, 2, 0, 3)
    found = _convolution(channels_first, batch_inside, pads, precision)
    return _convolution(seen, turned, around, precision), found.transpose(1, 2, 0, 3)


_convolution.defvjp(_forward, _backward)
