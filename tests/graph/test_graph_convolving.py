"""Convolutions with channels last: the same function, and what XLA is left with in loops."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jaxtyping import Array

from wlab.graph import channels_last

LAYOUT = ("NHWC", "HWIO", "NHWC")
FAST = {"b01f_01io->b01f"}
IN_GROUPS = {"2b01f_01i2o->b012f"}  # what XLA makes of groups of the batch


def maps_and_kernel(groups: int = 1) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(0))
    shapes = (4, 9, 10, 4), (5, 4, 4 // groups, 8)
    return tuple(jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True))


def close(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(one) == jax.typeof(other)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def slopes_of(convolve: Callable[..., Array]) -> Callable[..., Any]:
    return jax.value_and_grad(lambda *operands: jnp.sum(jnp.sin(convolve(*operands))), (0, 1))


def plain(maps: Array, kernel: Array, **options: Any) -> Array:
    given = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT} | options
    return jax.lax.conv_general_dilated(maps, kernel, **given)


def orders(fn: Callable[..., Any], *operands: Any) -> set[str]:
    """The orders of axes that XLA is left with in a loop."""

    def step(operands: Any, _: None) -> tuple[Any, None]:
        changed = jax.tree.map(lambda x, y: x + jnp.sum(y), operands, fn(*operands)[1])
        return changed, None

    loop = jax.jit(lambda operands: jax.lax.scan(step, operands, length=2)[0])
    return set(re.findall(r"dim_labels=(\w+->\w+)", loop.lower(operands).compile().as_text()))


OPTIONS = [
    {},
    {"padding": ((2, 1), (-1, 3))},
    {"window_strides": (2, 1)},
    {"rhs_dilation": (1, 2)},
    {"lhs_dilation": (2, 2), "padding": ((0, 0), (0, 0))},
    {"feature_group_count": 2},
    {"feature_group_count": 4},
    {"batch_group_count": 2},
    {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    {"precision": "highest", "preferred_element_type": jnp.float32},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_values_and_gradients_in_one_order(options: dict[str, Any]):
    operands = maps_and_kernel(options.get("feature_group_count", 1))
    slopes = slopes_of(partial(plain, **options))
    close(channels_last(slopes)(*operands), slopes(*operands))
    if jax.default_backend() == "cpu":
        assert orders(channels_last(slopes), *operands) <= FAST | IN_GROUPS
        assert orders(slopes, *operands) - FAST - IN_GROUPS  # else it is no longer needed


def test_kernels_that_reach_beyond_the_maps_do_not_change_places_with_them():
    maps, kernel = jnp.ones((2, 2, 2, 4)), jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
    slopes = slopes_of(plain)
    close(channels_last(slopes)(maps, kernel), slopes(maps, kernel))
    assert orders(channels_last(slopes), maps, kernel) == FAST


def within(kind: str, convolve: Callable[..., Array]) -> Callable[..., Array]:
    """The same number of maps, by way of another equation that holds a function."""
    match kind:
        case "jit":
            return jax.jit(convolve)
        case "remat":
            return jax.checkpoint(convolve)
        case "scan":
            return lambda maps, kernel: jax.lax.scan(
                lambda maps, k: (convolve(maps, k)[..., :4], ()), maps, jnp.stack([kernel, kernel])
            )[0]
        case "cond":
            return lambda maps, kernel: jax.lax.cond(
                maps[0, 0, 0, 0] > 0, convolve, lambda maps, k: 2 * convolve(maps, k), maps, kernel
            )
        case _:
            return jax.vmap(lambda maps, kernel: convolve(maps[None], kernel), (0, None))


@pytest.mark.parametrize("kind", ["jit", "remat", "scan", "cond", "vmap"])
def test_functions_within_the_function_are_changed_too(kind: str):
    operands, slopes = maps_and_kernel(), slopes_of(within(kind, plain))
    close(channels_last(slopes)(*operands), slopes(*operands))
    texts = [str(jax.make_jaxpr(fn)(*operands)) for fn in (slopes, channels_last(slopes))]
    held = [
        re.findall(r"\b(?:jit|remat2?|checkpoint|scan|cond)\[|differentiated=\w+", t) for t in texts
    ]
    assert held[0] == held[1]  # nothing is inlined: what is computed again still is
    assert {len(set(re.findall(r"lhs_spec=\(.*?\)", text))) for text in texts} == {1, 2}


def test_a_loop_while_something_holds():
    maps, kernel = maps_and_kernel()
    first = jnp.moveaxis(maps, -1, 1)
    layout = ("NCHW", "HWIO", "NCHW")

    def run(maps: Array, kernel: Array) -> Array:
        def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
            return state[0] + 1, plain(state[1], kernel, dimension_numbers=layout)[:, :4]

        return jax.lax.while_loop(lambda s: (s[0] < 2) & (jnp.sum(s[1]) < 1e9), body, (0, maps))[1]

    close(channels_last(run)(first, kernel), run(first, kernel))
    assert orders(lambda *x: (0, (channels_last(run)(*x), x[1])), first, kernel) == FAST


def test_networks_with_channels_in_front():
    layer = eqx.nn.Conv2d(4, 8, 3, key=jax.random.key(0))
    weights, rest = eqx.partition(layer, eqx.is_array)
    maps = jnp.moveaxis(maps_and_kernel()[0], -1, 1)

    def loss(weights: Any, maps: Array) -> Array:
        return jnp.sum(jax.vmap(eqx.combine(weights, rest))(maps) ** 2)

    slopes = jax.value_and_grad(loss, (0, 1))
    close(channels_last(slopes)(weights, maps), slopes(weights, maps))
    assert orders(channels_last(slopes), weights, maps) == FAST


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_batches_on_a_mesh_are_seen_alike(kind: AxisType):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    maps, kernel = maps_and_kernel()
    slopes = slopes_of(plain)
    expected = slopes(maps, kernel)
    with jax.set_mesh(mesh):
        cut = jax.device_put(maps, jax.NamedSharding(mesh, jax.P("data")))
        whole = jax.device_put(kernel, jax.NamedSharding(mesh, jax.P()))
        found = jax.jit(channels_last(slopes))(cut, whole)
    close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected))


@pytest.mark.parametrize("check", [True, False])
def test_it_may_be_used_on_each_device(check: bool):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    maps, kernel = maps_and_kernel()

    def on_one(maps: Array, kernel: Array) -> Array:
        kernel = jax.lax.pcast(kernel, "data", to="varying")
        return jax.lax.psum(channels_last(slopes_of(plain))(maps, kernel)[1][1], "data")

    run = jax.shard_map(
        on_one, mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P(), check_vma=check
    )
    close(np.asarray(run(maps, kernel)), np.asarray(slopes_of(plain)(maps, kernel)[1][1]))


def test_profiles_show_the_same_names():
    def loss(maps: Array, kernel: Array) -> Array:
        with jax.named_scope("block"):
            return jnp.sum(jax.jit(plain)(maps, kernel) ** 2)

    slopes = jax.grad(loss, (0, 1))

    def names(fn: Callable[..., Any]) -> set[str]:
        text = jax.jit(fn).lower(*maps_and_kernel()).compile().as_text()
        return set(re.findall(r'op_name="([^"]*conv[^"]*)"', text))

    assert names(channels_last(slopes)) == names(slopes)
    assert any("transpose(jvp(block))" in name for name in names(slopes))


def test_what_has_no_convolution_is_as_it_was():
    def fn(x: Array, key: Array) -> dict[str, Any]:
        drawn = jax.random.normal(key, x.shape)
        return {"out": jax.nn.relu(x) + drawn, "empty": None, "key": key}

    x, key = jnp.arange(3.0), jax.random.key(1)
    assert str(jax.make_jaxpr(channels_last(fn))(x, key)) == str(jax.make_jaxpr(fn)(x, key))
