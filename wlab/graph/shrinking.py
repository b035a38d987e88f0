"""A network without some of its units: smaller leaves, and the function that takes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab import tree
from wlab.graph.compat import Opened
from wlab.graph.coupled.solving import Bools
from wlab.graph.coupled.walking import Axes
from wlab.graph.evaluating import Plan, Visit, evaluate
from wlab.graph.groups import Groups, Keep
from wlab.graph.groups import groups as grouped
from wlab.graph.reading import read
from wlab.graph.resizing import Kept, resized, sizes, taken, with_own_derivative
from wlab.graph.use import Site
from wlab.transform import Params


@dataclass(frozen=True)
class Shrunk:
    """The smaller network.

    Attributes:
        fn: `(smaller params, *inputs)`, with the inputs that the whole function took.
        kept: Of each leaf, by path, which positions of each axis stay.
    """

    fn: Callable[..., Any]
    kept: Mapping[str, Kept]

    def params(self, whole: Params) -> Params:
        """The smaller leaves.

        Raises:
            ValueError: If it is another tree, as an optimizer's state, which `like` takes.
        """
        for path in tree.leaves(whole):
            if path not in self.kept:
                raise ValueError(
                    f"the network has no leaf {path!r}: an optimizer's state, or any tree other "
                    "than its parameters, gets smaller by `like(state, params)`."
                )
        return tree.map_leaves(lambda path, leaf: taken(jnp.asarray(leaf), self.kept[path]), whole)

    def like(self, state: Any, whole: Params) -> Any:
        """The smaller state of an optimizer, or any tree with leaves that go with the weights.

        Those whose path ends with a weight's and that have its shape get smaller with it.
        """
        return tree.matched(self.params, state, whole)


def shrink(groups: Groups, keep: Keep) -> Shrunk:
    """Takes units out of a network.

    The function is what was read, evaluated anew at the smaller sizes: it runs even where the
    model's own source would refuse them, and gives what the whole function gives if the weights
    of those units are zero. Numbers that were computed from sizes stay what they were: a mean
    over fewer features is still divided by the number there was. Can be traced, compiled and
    differentiated; custom derivatives of what was made smaller are those of what they compute.
    For inputs of other shapes the whole function is read again, when it is traced.

    Args:
        groups: Of the function.
        keep: Which units of which group stay.

    Raises:
        ValueError: If there is no such group, it has another size, or none of it stays.
    """
    kept = partial(_kept, groups, groups.stay(keep))
    walk, function = groups.walk, groups.graph.function
    visits: dict[Site, Visit] = {}
    entered: set[Site] = set()
    for site in walk.results:
        before, after = kept(walk.operands[site]), kept(walk.results[site])
        if all(axis.all() for value in (*before, *after) for axis in value):
            continue
        equation = walk.entered.get(site)
        if equation is None:
            visits[site] = partial(_resized, before, after)
        elif (rule := with_own_derivative(equation)) is not None:
            visits[site] = partial(_replaced, rule)
        else:
            entered.add(site)
    plan = Plan(visits, entered=frozenset(entered))
    constants, inputs = _taken(function.consts, kept(groups.constants)), kept(groups.inputs)
    leaves = groups.kept(keep)

    def fn(params: Params, *given: Any) -> Any:
        _refuse_other_shapes(params, leaves)
        if not _was_read(groups, params, given):
            return shrink(_read_anew(groups, params, given), keep).fn(params, *given)
        operands = [*jax.tree.leaves(params), *_taken(jax.tree.leaves(given), inputs)]
        results, _ = evaluate(Opened(function.jaxpr, constants), operands, plan)
        return jax.tree.unflatten(jax.tree.structure(groups.graph.results), results)

    return Shrunk(fn, leaves)


def _refuse_other_shapes(params: Params, kept: Mapping[str, Kept]) -> None:
    for path, leaf in tree.leaves(params).items():
        if path not in kept or jnp.shape(leaf) != sizes(kept[path]):
            expected = f"takes {sizes(kept[path])}" if path in kept else "has no such leaf"
            raise ValueError(
                f"{path!r} has shape {jnp.shape(leaf)}; the smaller network {expected}."
            )


def _was_read(groups: Groups, params: Params, given: Any) -> bool:
    """Whether the function was read for inputs of these shapes, and for these dtypes."""
    expected = [v.aval for v in groups.graph.function.jaxpr.invars]
    arrays = jax.tree.leaves((params, given))
    inputs = range(len(groups.leaves), len(expected))
    return [jnp.result_type(x) for x in arrays] == [x.dtype for x in expected] and all(
        jnp.shape(arrays[i]) == expected[i].shape for i in inputs
    )


def _read_anew(groups: Groups, params: Params, given: Any) -> Groups:
    """The same groups, of the function for other inputs."""
    shapes = dict(zip(groups.leaves, groups.graph.function.jaxpr.invars, strict=False))

    def whole(path: str, leaf: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shapes[path].aval.shape, jnp.result_type(leaf))

    graph = read(groups.graph.fn, tree.map_leaves(whole, params), *given)
    return grouped(graph, loose=groups.loose)


def _kept(groups: Groups, stay: Bools, values: Sequence[Axes]) -> list[Kept]:
    """Which positions of each axis of each value stay."""
    return [tuple(groups.coupling.kept(axis, stay) for axis in axes) for axes in values]


def _taken(arrays: Sequence[Any], kept: Sequence[Kept]) -> list[Array]:
    return [taken(jnp.asarray(x), of) for x, of in zip(arrays, kept, strict=True)]


def _resized(before: Any, after: Any, equation: Any, operands: Any) -> Any:
    return resized(equation, operands, before, after), {}


def _replaced(rule: Callable[..., Any], equation: Any, operands: Any) -> Any:
    del equation
    return [rule(*operands)], {}
