"""A function whose convolutions have their axes in the order that is fast on CPUs, in loops too."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from wlab.graph.compat import CALLS, Opened, closed_as, opened
from wlab.graph.evaluating import bound

# Equations that hold functions of their own operands, and may be given others in their place.
_HOLDING = {name for name in CALLS if "custom" not in name} | {"cond", "scan", "while"}


def channels_last(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with the batch first and channels last in all maps that it convolves.

    The same function: what is transposed before a convolution is transposed back behind it. XLA
    does so itself, as its fast code for CPUs needs it, but not in the bodies of `lax.scan`, `map`
    and `while_loop`. Gradients of convolutions come in other orders, and so does all that networks
    with channels in front convolve: in a loop a step of LeNet-5 takes 305 ms, and with this 23.
    `training.make_step` does it on CPUs. For a loop of your own:

        slopes = channels_last(jax.grad(loss))

    of the gradient, since that of a loss with channels last has them elsewhere again. What a
    `shard_map` of the function or a custom derivative convolves is left as it is.

    Args:
        fn: From trees of arrays to one.
    """

    @wraps(fn)
    def ordered(*operands: Any) -> Any:
        function, shapes = jax.make_jaxpr(fn, return_shape=True)(*operands)
        results = _run(opened(function), jax.tree.leaves(operands))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return ordered


def _run(function: Opened, operands: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(function.jaxpr.constvars, function.consts, strict=True))
    values |= zip(function.jaxpr.invars, operands, strict=True)

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in function.jaxpr.eqns:
        results = _step(equation, [value(atom) for atom in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [value(atom) for atom in function.jaxpr.outvars]


def _step(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    if _is_slow(equation):
        return [_convolved(equation, *operands)]
    if equation.primitive.name not in _HOLDING:
        return bound(equation, operands)
    held = {name: _ordered(value) for name, value in equation.params.items()}
    return bound(equation, operands, held)


def _ordered(value: Any) -> Any:
    """A parameter of an equation: functions in it with channels last, all else as it is."""
    if not _has_some(value):
        return value
    if isinstance(value, tuple):
        return tuple(map(_ordered, value))
    function = opened(value)
    operands = [atom.aval for atom in function.jaxpr.invars]
    return closed_as(value, jax.make_jaxpr(lambda *xs: _run(function, xs))(*operands))


def _has_some(value: Any) -> bool:
    """Whether functions in a parameter of an equation convolve slowly."""
    if isinstance(value, tuple):
        return any(_has_some(one) for one in value)
    equations = getattr(opened(value).jaxpr, "eqns", ())
    return any(
        _is_slow(one)
        or (one.primitive.name in _HOLDING and any(map(_has_some, one.params.values())))
        for one in equations
    )


def _is_slow(equation: Any) -> bool:
    """Whether it is a convolution in another order, or one whose kernel reaches beyond the maps."""
    if equation.primitive.name != "conv_general_dilated":
        return False
    numbers = equation.params["dimension_numbers"]
    maps, kernel = (atom.aval.shape for atom in equation.invars)
    sizes = [maps[axis] for axis in numbers.lhs_spec[2:]]
    window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
    return numbers != _last(len(window)) or _is_beyond(sizes, window)


def _is_beyond(sizes: Sequence[int], window: Sequence[int]) -> bool:
    return any(n < k for n, k in zip(sizes, window, strict=True))


def _last(spaces: int) -> lax.ConvDimensionNumbers:
    """Batch, space, channels; of kernels space, inputs, outputs."""
    between = tuple(range(1, spaces + 1))
    maps = (0, spaces + 1, *between)
    return lax.ConvDimensionNumbers(maps, (spaces + 1, spaces, *range(spaces)), maps)


def _convolved(equation: Any, maps: Array, kernel: Array) -> Array:
    numbers = equation.params["dimension_numbers"]
    batch, channels, *spaces = numbers.lhs_spec
    outputs, inputs, *window = numbers.rhs_spec
    maps = lax.transpose(maps, (batch, *spaces, channels))
    kernel = lax.transpose(kernel, (*window, inputs, outputs))
    batch, channels, *found = numbers.out_spec
    places = (batch, *found, channels)
    params = equation.params | {"dimension_numbers": _last(len(spaces))}
    if params.get("out_sharding"):
        params["out_sharding"] = _reordered(params["out_sharding"], places)
    if _is_beyond(maps.shape[1:-1], kernel.shape[:-2]):
        maps, params = _zeros_written(maps, params)
    (result,) = bound(equation, [maps, kernel], params)
    return lax.transpose(result, np.argsort(places))


def _reordered(sharding: NamedSharding, places: Sequence[int]) -> NamedSharding:
    """The sharding of a result whose axes were at these places before."""
    spec = (*sharding.spec, *[None] * len(places))
    return NamedSharding(sharding.mesh, PartitionSpec(*(spec[place] for place in places)))


def _zeros_written(maps: Array, params: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
    """Zeros around and between the maps become part of them; for maps that kernels reach beyond.

    XLA would let them change places, which is slow on CPUs, and pad by itself again but for the
    barrier.
    """
    sides, steps = params["padding"], params["lhs_dilation"]
    spaces = [(low, high, step - 1) for (low, high), step in zip(sides, steps, strict=True)]
    filled = lax.pad(maps, jnp.zeros((), maps.dtype), [(0, 0, 0), *spaces, (0, 0, 0)])
    none = {"padding": ((0, 0),) * len(sides), "lhs_dilation": (1,) * len(sides)}
    return lax.optimization_barrier(filled), params | none
