"""What a function's products cost: multiply-adds and results, of each leaf and in all."""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from wlab.graph.compat import Opened, called, mapped, opened
from wlab.graph.operands import PRODUCTS
from wlab.graph.reading import Graph
from wlab.graph.use import Site


class Cost(NamedTuple):
    """Of one call of the function.

    Attributes:
        multiply_adds: Half of the floating point operations.
        outputs: Numbers that the products give.
    """

    multiply_adds: int
    outputs: int


def costs(graph: Graph) -> dict[str, Cost]:
    """What the products cost that each leaf is in, by path; nothing for a leaf in none.

    A turn of a scan counts as often as it runs; one of a loop with an open end once, and each
    branch as if it were taken. Of `shard_map`, what every device computes counts.
    """
    found = dict(_products(graph.function, (), 1))
    total = dict.fromkeys(graph.paths, Cost(0, 0))
    for use in graph.uses:
        if use.site in found:
            one, other = total[use.path], found[use.site]
            total[use.path] = Cost(*(a + b for a, b in zip(one, other, strict=True)))
    return total


def multiply_adds(graph: Graph) -> int:
    """Of all products of a function, also those of two values that its inputs decide."""
    return sum(cost.multiply_adds for _, cost in _products(graph.function, (), 1))


def _products(function: Opened, site: Site, turns: int) -> Iterator[tuple[Site, Cost]]:
    for i, equation in enumerate(function.jaxpr.eqns):
        at = (*site, i)
        if equation.primitive.name in PRODUCTS:
            yield at, _cost(equation, turns)
        for name, inner, more in _within(equation):
            yield from _products(inner, (*at, *name), turns * more)


def _within(equation: Any) -> Iterator[tuple[Site, Opened, int]]:
    """The functions within an equation: the rest of their site, and how often they run."""
    params = equation.params
    match equation.primitive.name:
        case "scan":
            yield (), opened(params["jaxpr"]), params["length"]
        case "while":
            yield ("cond",), opened(params["cond_jaxpr"]), 1
            yield ("body",), opened(params["body_jaxpr"]), 1
        case "cond":
            for i, branch in enumerate(params["branches"]):
                yield (f"branch {i}",), opened(branch), 1
        case "shard_map":
            of = mapped(equation)
            yield (), of.function, prod(of.mesh.shape[name] for name in of.axes)
        case _ if (function := called(equation)) is not None:
            yield (), function, 1


def _cost(equation: Any, turns: int) -> Cost:
    """Of every result, as many products as are summed."""
    outputs = turns * prod(equation.outvars[0].aval.shape)
    one, other = (variable.aval.shape for variable in equation.invars[:2])
    if equation.primitive.name == "dot_general":
        (contract, _), _ = equation.params["dimension_numbers"]
        return Cost(outputs * prod(one[i] for i in contract), outputs)
    kernel = equation.params["dimension_numbers"].rhs_spec[1:]
    return Cost(outputs * prod(other[i] for i in kernel), outputs)
