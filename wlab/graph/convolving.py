"""A function whose convolutions have their axes in the order that is fast on CPUs, in loops too."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from wlab.graph.compat import CALLS, Opened, closed_as, opened
from wlab.graph.evaluating import Found, Plan, Visit, bound, evaluate
from wlab.graph.use import Site

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


def with_zeros(
    maps: Array, sides: Sequence[tuple[int, int]], dilation: Sequence[int] | None = None
) -> Array:
    """Maps, channels last, with zeros around and between them; less of them where negative.

    For maps that are smaller than the kernel. XLA would let them change places, and has no fast
    convolution for that on CPUs: 2 × 2 maps of 512 channels took 50 times as long as if the zeros
    are written out before.
    """
    between = [step - 1 for step in dilation or [1] * len(sides)]
    pads = [(*pair, zeros) for pair, zeros in zip(sides, between, strict=True)]
    filled = lax.pad(maps, jnp.zeros((), maps.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    return lax.optimization_barrier(filled)  # else XLA pads by itself again


def _run(function: Opened, operands: Sequence[Any]) -> list[Any]:
    visits: dict[Site, Visit] = {}
    for i, equation in enumerate(function.jaxpr.eqns):
        if (change := _change_of(equation)) is not None:
            visits[(i,)] = change
    return evaluate(function, operands, Plan(visits))[0]


def _change_of(equation: Any) -> Visit | None:
    """What is done in place of an equation; None if it stays."""
    if _is_slow(equation):
        return _convolved
    held = equation.params.values() if equation.primitive.name in _HOLDING else ()
    return _entered if any(map(_has_some, held)) else None


def _entered(equation: Any, operands: Sequence[Any]) -> tuple[Sequence[Any], Found]:
    held = {name: _ordered(value) for name, value in equation.params.items()}
    return bound(equation, operands, held), {}


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
    return any(_change_of(equation) is not None for equation in equations)


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


def _convolved(equation: Any, operands: Sequence[Any]) -> tuple[Sequence[Any], Found]:
    maps, kernel = operands
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
        maps = with_zeros(maps, params["padding"], params["lhs_dilation"])
        params |= {"padding": ((0, 0),) * len(spaces), "lhs_dilation": (1,) * len(spaces)}
    (result,) = bound(equation, [maps, kernel], params)
    return [lax.transpose(result, np.argsort(places))], {}


def _reordered(sharding: NamedSharding, places: Sequence[int]) -> NamedSharding:
    """The sharding of a result whose axes were at these places before."""
    spec = (*sharding.spec, *[None] * len(places))
    return NamedSharding(sharding.mesh, PartitionSpec(*(spec[place] for place in places)))
