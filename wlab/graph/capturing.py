"""Statistics of what each leaf is multiplied with, found while the function runs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from wlab.graph.devices import Names, added, of_one, together
from wlab.graph.differing import differing
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

    def together(self, one: Any, other: Any) -> Any:
        """What two sets of rows give, from the tree that each gave."""
        return jax.tree.map(self.combine, one, other)


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
    turn, stacked; leaves that it meets at every turn one for all turns. Within `shard_map`, the
    rows of all devices count, and once those that devices have in common. It can be compiled and
    differentiated, but custom derivatives around a weight are not kept.

    Args:
        fn: Of parameters and inputs.
        statistic: What to keep.
        where: Which uses, of those.

    Raises:
        ValueError: If there is no such use, or the function can't be traced; if `shard_map` cuts a
            chosen leaf along another axis than one of its outputs.
    """

    def run(params: Params, *inputs: Any) -> tuple[Any, Found]:
        graph = read(fn, params, *inputs)
        return captured(graph, statistic, products(graph, where), params, *inputs)

    return run


def captured(
    graph: Graph, statistic: Statistic, chosen: Mapping[Key, Use], params: Params, *inputs: Any
) -> tuple[Any, Found]:
    """Runs a function that has been read, and keeps a statistic at the chosen ones of its products.

    Returns:
        Its result, and what was found, as the function that `capture` gives.

    Raises:
        ValueError: If none is chosen, or one is cut over devices as `capture` says.
    """
    if not chosen:
        raise ValueError(
            "capture: no chosen leaf is multiplied with anything that depends on the inputs:\n"
            f"{graph}"
        )
    operands = jax.tree.leaves((params, inputs))
    results, found = evaluate(graph.function, operands, planned(graph, statistic, chosen))
    return jax.tree.unflatten(jax.tree.structure(graph.results), results), found


def products(graph: Graph, where: Callable[[Use], bool] = lambda use: True) -> dict[Key, Use]:
    """The chosen uses in a product with something that depends on inputs.

    A key is a leaf's path and which of its uses it is, as in `graph.of(path)`.
    """
    return {
        (path, k): use
        for path in graph.paths
        for k, use in enumerate(graph.of(path))
        if use.primitive in PRODUCTS
        and not (use.opaque or use.partners or use.alone)
        and where(use)
    }


def _over(graph: Graph, chosen: Mapping[Key, Use]) -> dict[Key, Names]:
    """The axes of a mesh along which devices meet other rows, for each key.

    Raises:
        ValueError: If devices have parts of them.
    """
    names = differing(graph.function)
    found = {key: names[use.site][1 - use.operand] for key, use in chosen.items()}
    for (path, _), use in chosen.items():
        _refuse_parts_of_rows(path, use, names[use.site][1 - use.operand])
    return found


def planned(graph: Graph, statistic: Statistic, chosen: Mapping[Key, Use]) -> Plan:
    """What to do where, to keep a statistic at the chosen products.

    Raises:
        ValueError: If one is cut over devices as `capture` says.
    """
    over = _over(graph, chosen)
    sites: dict[Site, list[tuple[Key, Use]]] = {}
    for key, use in chosen.items():
        sites.setdefault(use.site, []).append((key, use))
    visits: dict[Site, Visit] = {
        site: partial(_measured, keys, statistic) for site, keys in sites.items()
    }
    loops = {key: use.view.loops for key, use in chosen.items()}

    def across(key: Key, found: Any, axes: Names) -> Any:
        rows = over[key] & axes
        if statistic.combine is jax.numpy.add:
            return of_one(added(found, rows), axes - rows)
        return of_one(together(found, rows, statistic.together), axes)

    return Plan(visits, loops, statistic.together, statistic.empty, across)


def _refuse_parts_of_rows(path: str, use: Use, differs: Names) -> None:
    inputs = {*use.view.stack, *use.batch_axes, *use.in_axes}
    for axis, names, parts in use.view.cuts:
        is_output = axis in use.out_axes and axis not in inputs and differs.isdisjoint(names)
        if parts > 1 and not is_output:
            raise ValueError(
                f"capture: `shard_map` cuts axis {axis} of {path!r} over {names}, so no device has "
                f"whole rows of what it is multiplied with, at {use.site}: capture the function "
                "without `shard_map`, cut the leaf along its outputs alone, or leave it out by "
                "`where`."
            )


def _measured(
    keys: Sequence[tuple[Key, Use]], statistic: Statistic, equation: Any, operands: Sequence[Any]
) -> tuple[Sequence[Any], Found]:
    found = {
        key: statistic.measure(rows_of(use, equation, operands[1 - use.operand]))
        for key, use in keys
    }
    return bound(equation, operands), found
