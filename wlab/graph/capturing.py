"""Statistics of what each leaf is multiplied with, found while the function runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from wlab.graph.evaluating import Found, Key, Plan, Visit, bound, evaluate
from wlab.graph.operands import PRODUCTS, rows_of
from wlab.graph.reading import Graph, read
from wlab.graph.use import Site, Use
from wlab.transform import Params


class Statistic(NamedTuple):
    """What to keep of a matrix of rows, one an example, and columns, one an input of the leaf.

    Attributes:
        measure: Of such a matrix, or a batch of them; an array or a tree of arrays.
        combine: What two sets of rows give together, from what each gave; leaf by leaf.
        empty: The number that stands for no rows: combining with it changes nothing.
    """

    measure: Callable[[Float[Array, "*batch rows features"]], Any]
    combine: Callable[[Array, Array], Array] = jax.numpy.add
    empty: float = 0.0


def capture(
    fn: Callable[..., Any],
    statistic: Statistic,
    *,
    where: Callable[[Use], bool] = lambda use: True,
) -> Callable[..., tuple[Any, Found]]:
    """`fn`, giving beside its result a statistic of the inputs of each weight.

    The result is a function of `(params, *inputs)` that returns `(result, found)`. `found` has a
    key `(path, k)` for use k of a leaf (of `read(…).of(path)`) in a product or a convolution with
    something that depends on the inputs. The columns of what is measured are the leaf's entries
    along `in_axes`, in the leaf's own order; leaves that a loop runs over have a statistic a
    turn, stacked; leaves that it meets at every turn one for all turns. It can be compiled and
    differentiated, but custom derivatives around a weight are not kept.

    Args:
        fn: Of parameters and inputs.
        statistic: What to keep.
        where: Which uses, of those.

    Raises:
        ValueError: If there is no such use, or the function can't be traced.
    """

    def run(params: Params, *inputs: Any) -> tuple[Any, Found]:
        graph = read(fn, params, *inputs)
        chosen = {key: use for key, use in products(graph).items() if where(use)}
        if not chosen:
            raise ValueError(
                "capture: no chosen leaf is multiplied with anything that depends on the inputs:\n"
                f"{graph}"
            )
        operands = jax.tree.leaves((params, inputs))
        results, found = evaluate(graph.function, operands, _plan(chosen, statistic))
        return jax.tree.unflatten(jax.tree.structure(graph.results), results), found

    return run


def products(graph: Graph) -> dict[Key, Use]:
    """Uses in a product with something that depends on inputs; a key is a path and a number."""
    return {
        (path, k): use
        for path in graph.paths
        for k, use in enumerate(graph.of(path))
        if use.primitive in PRODUCTS and not use.opaque and not use.partners and not use.alone
    }


def _plan(chosen: dict[Key, Use], statistic: Statistic) -> Plan:
    sites: dict[Site, list[tuple[Key, Use]]] = {}
    for key, use in chosen.items():
        sites.setdefault(use.site, []).append((key, use))
    visits: dict[Site, Visit] = {
        site: partial(_measured, keys, statistic) for site, keys in sites.items()
    }
    loops = {key: use.view.loops for key, use in chosen.items()}
    combine = partial(jax.tree.map, statistic.combine)
    return Plan(visits, loops, combine, statistic.empty)


def _measured(
    keys: Sequence[tuple[Key, Use]], statistic: Statistic, equation: Any, operands: Sequence[Any]
) -> tuple[Sequence[Any], Found]:
    found = {
        key: statistic.measure(rows_of(use, equation, operands[1 - use.operand]))
        for key, use in keys
    }
    return bound(equation, operands), found
