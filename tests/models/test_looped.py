"""Convolutions for loops against JAX's: values, gradients, higher ones, what XLA makes of them."""

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jaxtyping import Array

from wlab.models import lenet5, looped_convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")
PADDINGS = ["VALID", "SAME", ((2, 1), (0, 3)), ((0, 0), (-1, 2))]


def maps_and_kernel(side: int = 9, size: int = 5) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(0))
    shapes = (3, side, side + 1, 2), (size, size - 1, 2, 4)
    return tuple(jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True))


def close(found: object, expected: object) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_same_values_and_gradients(padding: str | tuple[tuple[int, int], ...]):
    def pulled(convolve: Callable[..., Array]) -> object:
        def loss(maps: Array, kernel: Array) -> Array:
            seen = convolve(maps, kernel, (1, 1), padding, dimension_numbers=LAYOUT)
            return jnp.sum(jnp.sin(seen))

        both = jax.value_and_grad(loss, (0, 1))
        curved = jax.grad(lambda *x: jnp.sum(both(*x)[1][1] ** 2), (0, 1))
        return both(*maps_and_kernel()), curved(*maps_and_kernel())

    close(pulled(looped_convolution), pulled(jax.lax.conv_general_dilated))


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (2, 1)},
        {"rhs_dilation": (1, 2)},
        {"lhs_dilation": (2, 2)},
        {"feature_group_count": 2},
        {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
        {"preferred_element_type": jnp.float32},
    ],
)
def test_what_it_does_not_write_itself_is_jaxs(options: dict[str, object]):
    maps, kernel = maps_and_kernel()
    if "feature_group_count" in options:
        kernel = kernel[:, :, :1]
    options = {"window_strides": (1, 1), "dimension_numbers": LAYOUT, **options}
    options["padding"] = ((0, 0), (0, 0))
    convolve = partial(looped_convolution, **options)
    _, pushed = jax.jvp(convolve, (maps, kernel), (maps, kernel))  # which a rule of ours refuses
    expected = jax.lax.conv_general_dilated(maps, kernel, **options)
    np.testing.assert_array_equal(convolve(maps, kernel), expected)
    assert pushed.shape == expected.shape


def compiled(convolve: Callable[..., Array]) -> set[str]:
    """The orders of axes that XLA is left with, of a gradient within a loop."""
    model = lenet5(side=16, conv_general_dilated=convolve)
    params, images = model.init(jax.random.key(0)), jnp.ones((4, 256))

    def step(params: object, _: None) -> tuple[object, None]:
        slope = jax.grad(lambda p: jnp.sum(model.apply(p, images) ** 2))(params)
        return jax.tree.map(jnp.subtract, params, slope), None

    loop = jax.jit(lambda params: jax.lax.scan(step, params, length=2)[0])
    return set(re.findall(r"dim_labels=(\w+->\w+)", loop.lower(params).compile().as_text()))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about XLA's code for CPUs")
def test_in_loops_all_axes_are_in_the_order_that_is_fast():
    assert compiled(looped_convolution) == {"b01f_01io->b01f"}
    assert len(compiled(jax.lax.conv_general_dilated)) > 1  # else it is no longer needed


def test_layers_of_flax_take_it():
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    plain, looped = (
        nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(0), **options)
        for options in ({}, {"conv_general_dilated": looped_convolution})
    )
    close(looped(images), plain(images))
    layer = linen.Conv(5, (3, 3), conv_general_dilated=looped_convolution)
    layer.apply(layer.init(jax.random.key(0), images), images)


def test_lenet5_learns_the_same_with_either():
    images = jax.random.normal(jax.random.key(1), (4, 256))
    slopes = [
        jax.grad(lambda p, m=model: jnp.sum(m.apply(p, images) ** 2))(model.init(jax.random.key(0)))
        for model in (lenet5(16), lenet5(16, conv_general_dilated=looped_convolution))
    ]
    close(*slopes)
