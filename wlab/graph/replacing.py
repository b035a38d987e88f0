"""A function whose products with chosen leaves are computed by the caller's own operations."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab.graph.capturing import products
from wlab.graph.devices import varied
from wlab.graph.entries import leading
from wlab.graph.evaluating import Found, Plan, Visit, evaluate
from wlab.graph.held import Held, is_array
from wlab.graph.product import Operation, Product
from wlab.graph.reading import Graph, read
from wlab.graph.use import Site, Use
from wlab.transform import Params
from wlab.tree import Rules, match

Operations = Mapping[str, Operation | None]  # of each leaf, by path
Chosen = Mapping[Site, tuple[Use, Operation]]


def replace(graph: Graph, rules: Rules[Operation | None]) -> Callable[..., Any]:
    """The function that was read, with an operation in place of each product with chosen leaves.

    `matmul` and `before` make operations; any function of a `Product` is one. It is called for
    every use of the leaf in a product or a convolution with something that depends on the inputs;
    other uses stay. The result is a function of `(params, *inputs)`. In the place of a leaf that
    is used in no other way `params` may hold any tree of arrays: packed codes, factors. Where a
    loop runs over the leaf's first axis, the operation gets each array's part of one turn; within
    `shard_map`, it runs on each device, and gets that device's part of a leaf that is cut.

    It can be compiled, differentiated and mapped; custom derivatives around a product that is
    replaced are not kept, others are. For other shapes of inputs, the function is read again.

    Args:
        graph: Of the function.
        rules: Ordered `(regex, operation)`; None leaves the products of a leaf as they are.

    Raises:
        ValueError: If a leaf has no rule or a rule no leaf, or the leaves of an operation are in
            no product that can be replaced; from the result, if `params` hold no array where one
            is needed, or an operation gives another shape.
    """
    operations = match(rules, graph.paths, purpose="replace")
    _refuse_idle(graph, operations)

    def replaced(params: Params, *inputs: Any) -> Any:
        given = _by_path(graph, params)
        fitting = _fitting(graph, given, operations, inputs)
        chosen = _chosen(fitting, operations)
        held = [path for path, value in given.items() if not _is_read(fitting, path, value)]
        for path in held:
            _refuse_needed(fitting, path, given[path], chosen)
        values = [Held(x, path) if path in held else x for path, x in given.items()]
        visits: dict[Site, Visit] = {
            site: partial(_operated, use, operation) for site, (use, operation) in chosen.items()
        }
        operands = [*values, *jax.tree.leaves(inputs)]
        results, _ = evaluate(fitting.function, operands, Plan(visits))
        return jax.tree.unflatten(jax.tree.structure(fitting.results), results)

    return replaced


def _refuse_idle(graph: Graph, operations: Operations) -> None:
    busy = {id(operations[path]) for path, _ in products(graph)}
    for path, operation in operations.items():
        if operation is not None and id(operation) not in busy:
            raise ValueError(
                f"replace: {path!r} is in no product with something that depends on the inputs, "
                f"nor is another leaf of its operation; mend the rule:\n{graph}"
            )


def _by_path(graph: Graph, params: Params) -> dict[str, Any]:
    """What is in the place of each leaf."""
    try:
        values = jax.tree.structure(graph.params).flatten_up_to(params)
    except ValueError as error:
        raise ValueError(
            f"replace: the tree of `params` is not the one that was read: {error}"
        ) from error
    return dict(zip(graph.paths, values, strict=True))


def _shapes(graph: Graph) -> dict[str, jax.ShapeDtypeStruct]:
    return dict(zip(graph.paths, jax.tree.leaves(graph.params), strict=True))


def _is_read(graph: Graph, path: str, value: Any) -> bool:
    """Whether it is an array of the shape and dtype that were read."""
    expected = _shapes(graph)[path]
    return is_array(value) and _form(value) == _form(expected)


def _form(value: Any) -> tuple[tuple[int, ...], Any]:
    return jnp.shape(value), jnp.result_type(value)


def _fitting(
    graph: Graph, given: Mapping[str, Any], operations: Operations, inputs: Sequence[Any]
) -> Graph:
    """The graph, or another of its function for inputs and leaves of these shapes."""
    met, shapes = {path for path, _ in products(graph)}, _shapes(graph)

    def as_given(path: str) -> bool:
        replaced = path in met and operations[path] is not None
        return is_array(given[path]) and not replaced

    leaves = {path: given[path] if as_given(path) else shapes[path] for path in graph.paths}
    arrays = [*leaves.values(), *jax.tree.leaves(inputs)]
    expected = [(v.aval.shape, v.aval.dtype) for v in graph.function.jaxpr.invars]
    if [_form(x) for x in arrays] == expected:
        return graph
    params = jax.tree.unflatten(jax.tree.structure(graph.params), list(leaves.values()))
    return read(graph.fn, params, *inputs)


def _chosen(graph: Graph, operations: Operations) -> Chosen:
    """What to do at which equation."""
    found: dict[Site, tuple[Use, Operation]] = {}
    for (path, _), use in products(graph).items():
        operation = operations[path]
        if operation is None:
            continue
        first, other = found.setdefault(use.site, (use, operation))
        if other is not operation:
            raise ValueError(
                f"replace: {first.path!r} and {path!r} make one weight, and have an operation "
                "each: give one of them None."
            )
    return found


def _refuse_needed(graph: Graph, path: str, value: Any, chosen: Chosen) -> None:
    """Refuses something held where the array that was read is needed, or what can't be cut."""
    shape = _shapes(graph)[path].shape
    for use in graph.of(path):
        view, first = use.view, shape[: len(use.view.stack) + len(leading(use.view))]
        if use.site not in chosen:
            why = f"its {use.primitive} is left in place"
        elif view.parts_of(range(len(shape))) > 1:
            why = "`shard_map` cuts it over devices (give each the whole of it there)"
        elif not view.exact:
            why = f"its {use.primitive} is with something computed from it"
        elif view.stack != tuple(range(len(view.stack))):
            why = f"a loop runs over its axes {view.stack}, not the first"
        elif any(jnp.shape(x)[: len(first)] != first for x in jax.tree.leaves(value)):
            why = f"only parts are used at a time, and not every array there begins with {first}"
        else:
            continue
        raise ValueError(
            f"replace: `params` hold no array of shape {shape} and the dtype that was read for "
            f"{path!r}, but {why}, at {use.site}: put such an array there."
        )


def _operated(
    use: Use, operation: Operation, equation: Any, operands: Sequence[Any]
) -> tuple[Sequence[Array], Found]:
    """The result of an operation, as the equation's."""
    result, expected = operation(Product(use, equation, operands)), equation.outvars[0].aval
    if jnp.shape(result) != expected.shape:
        raise ValueError(
            f"{use.path!r}: what replaces its {use.primitive} gave shape {jnp.shape(result)}; "
            f"the function goes on with {expected.shape}."
        )
    return [varied(jnp.asarray(result).astype(expected.dtype), expected)], {}
