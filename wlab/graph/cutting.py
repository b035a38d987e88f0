"""A function cut where its leaves become final, so that none of it is run from the start again.

Leaves are looked at in stages, and changed after each. What a stage has to run is what the leaves
of the stages before it decide, and has not been run with them yet.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from wlab.graph.arranging import ARRANGING
from wlab.graph.capturing import Statistic, planned, products
from wlab.graph.compat import called
from wlab.graph.evaluating import Found, Key, Plan, evaluate, evaluate_some
from wlab.graph.meeting import ELEMENTWISE
from wlab.graph.reading import Graph, read
from wlab.graph.use import Site, Use
from wlab.transform import Params

Uses = Mapping[Key, Use]


class Segment(NamedTuple):
    """What is run of a function at one stage.

    Attributes:
        chosen: The uses that are looked at.
        equations: Which of the function's outermost ones are run.
        leaves: Which leaves they read, by their place.
        consts: Which of its constants.
        takes: Which values of earlier stages, or inputs.
        gives: Which values are kept for later stages.
    """

    chosen: Uses
    equations: tuple[int, ...]
    leaves: tuple[int, ...]
    consts: tuple[int, ...]
    takes: tuple[Any, ...]
    gives: tuple[Any, ...]


def segments(
    graph: Graph, stages: Sequence[Uses], along: Sequence[Collection[str]] = ()
) -> list[Segment]:
    """What is run at each stage, if the leaves of a stage change once it is over.

    A stage sees the leaves of earlier ones as they have become, and its own and later ones as they
    were. Values are kept that inputs have a say in; what leaves alone decide is computed anew.

    Args:
        graph: What to cut, from `read_uncalled`.
        stages: The uses that each looks at.
        along: Paths of leaves that each may change besides.
    """
    values, found = _values(graph, stages, along), list[Segment]()
    for at in reversed(range(len(stages))):
        gives = found[-1].takes if found else ()
        found.append(_segment(graph, values, stages[at], at, gives))
    return found[::-1]


def run_segment(
    graph: Graph, segment: Segment, statistic: Statistic, operands: Sequence[Sequence[Any]]
) -> tuple[list[Any], Found]:
    """Runs one, and keeps a statistic at the uses that it looks at.

    Args:
        graph: What was cut.
        segment: One of its segments.
        statistic: What to keep.
        operands: The leaves, the constants and the values that it reads, each in its order.

    Returns:
        The values for later stages, and what was found, as `captured` gives it.
    """
    values: dict[Any, Any] = {}
    for variables, given in zip(operands_of(graph, segment), operands, strict=True):
        values |= zip(variables, given, strict=True)
    plan = planned(graph, statistic, segment.chosen)
    found = evaluate_some(graph.function, segment.equations, values, plan)
    return [values[v] for v in segment.gives], found


def operands_of(graph: Graph, segment: Segment) -> tuple[list[Any], list[Any], list[Any]]:
    """The variables that a segment reads: of leaves, of constants, and of what is kept."""
    jaxpr = graph.function.jaxpr
    leaves = [jaxpr.invars[i] for i in segment.leaves]
    return leaves, [jaxpr.constvars[i] for i in segment.consts], [*segment.takes]


def begun(graph: Graph, segment: Segment, inputs: Sequence[Any]) -> list[Any]:
    """What the first segment takes, of all arrays of the function's inputs."""
    given = dict(zip(graph.function.jaxpr.invars[len(graph.paths) :], inputs, strict=True))
    return [given[v] for v in segment.takes]


def read_uncalled(fn: Callable[..., Any], params: Params, *inputs: Any) -> Graph:
    """`read`, without the calls around the products of leaves: an outer `jit` hides no stage."""
    graph = read(fn, params, *inputs)
    entered = frozenset(place for use in products(graph).values() for place in _calls(graph, use))
    if not entered:
        return graph

    def flat(params: Params, *inputs: Any) -> Any:
        operands = jax.tree.leaves((params, inputs))
        return evaluate(graph.function, operands, Plan({}, entered=entered))[0]

    return replace(read(flat, params, *inputs), fn=fn, results=graph.results)


class _Values(NamedTuple):
    """What is known of the values of a jaxpr.

    Attributes:
        places: Of its operands and constants.
        makers: Which equation makes each other one.
        fed: Those that inputs have a say in.
        final: The number of stages that have to be over before each one changes no more.
        order: Constants and operands first, then the results of one equation after another.
    """

    places: dict[Any, tuple[str, int]]
    makers: dict[Any, int]
    fed: set[Any]
    final: dict[Any, int]
    order: dict[Any, int]


def _values(graph: Graph, stages: Sequence[Uses], along: Sequence[Collection[str]]) -> _Values:
    jaxpr = graph.function.jaxpr
    leaves, inputs = jaxpr.invars[: len(graph.paths)], jaxpr.invars[len(graph.paths) :]
    places = {v: ("consts", i) for i, v in enumerate(jaxpr.constvars)}
    places |= {v: ("leaves", i) for i, v in enumerate(leaves)}
    looked = [{use.path for use in uses.values()} for uses in stages]
    over: dict[str, int] = {}
    for paths in (looked, along):
        for at, changing in enumerate(paths, 1):
            over |= {path: max(at, over.get(path, 0)) for path in changing}
    final = dict.fromkeys([*jaxpr.constvars, *inputs], 0)
    final |= {v: over.get(path, 0) for v, path in zip(leaves, graph.paths, strict=True)}
    makers, fed = dict[Any, int](), set(inputs)
    for i, equation in enumerate(jaxpr.eqns):
        operands = _variables(equation)
        makers |= dict.fromkeys(equation.outvars, i)
        final |= dict.fromkeys(equation.outvars, max((final[v] for v in operands), default=0))
        if not fed.isdisjoint(operands):
            fed.update(equation.outvars)
    return _Values(places, makers, fed, final, {v: i for i, v in enumerate(final)})


def _segment(graph: Graph, values: _Values, chosen: Uses, at: int, gives: Sequence[Any]) -> Segment:
    """Backwards from what is looked at and kept, to what earlier stages kept."""
    looked = {int(use.site[0]) for use in chosen.values()}
    operands = [v for i in looked for v in _variables(graph.function.jaxpr.eqns[i])]
    way = _back(graph, values, [*gives, *operands], lambda v: values.final[v] < at)
    way = way._replace(equations=way.equations | looked)
    for value in sorted(way.takes, key=values.order.__getitem__, reverse=True):
        way = _without(graph, values, way, value)
    takes = sorted(way.takes, key=values.order.__getitem__)
    equations, leaves, consts = (tuple(sorted(found)) for found in way[:3])
    return Segment(chosen, equations, leaves, consts, tuple(takes), tuple(gives))


class _Way(NamedTuple):
    """What leads to some values: equations, leaves and constants by place, values that are kept."""

    equations: frozenset[int]
    leaves: frozenset[int]
    consts: frozenset[int]
    takes: frozenset[Any]


def _back(
    graph: Graph, values: _Values, wanted: Sequence[Any], kept: Callable[[Any], bool]
) -> _Way:
    """From some values back to leaves, constants, inputs, and values of inputs that are kept."""
    eqns = graph.function.jaxpr.eqns
    equations, takes, left, seen = set[int](), set[Any](), list(wanted), set[Any]()
    found: dict[str, set[int]] = {"leaves": set(), "consts": set()}
    while left:
        value = left.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in values.places:
            kind, place = values.places[value]
            found[kind].add(place)
        elif value not in values.makers or (value in values.fed and kept(value)):
            takes.add(value)
        else:
            equations.add(values.makers[value])
            left += _variables(eqns[values.makers[value]])
    leaves, consts = (frozenset(found[kind]) for kind in ("leaves", "consts"))
    return _Way(frozenset(equations), leaves, consts, frozenset(takes))


def _without(graph: Graph, values: _Values, way: _Way, value: Any) -> _Way:
    """The way without one of the values that it takes, where the others give that cheaply."""
    if value not in values.makers:
        return way
    others = way.takes - {value}
    more = _back(graph, values, [value], lambda v: v in others)
    made = (graph.function.jaxpr.eqns[i] for i in more.equations)
    dear = any(not _cheap(e) for e in made if not values.fed.isdisjoint(e.outvars))
    if dear or not more.takes <= others:
        return way
    equations, leaves, consts = (a | b for a, b in zip(way[:3], more[:3], strict=True))
    return _Way(equations, leaves, consts, others)


def _cheap(equation: Any) -> bool:
    """Whether no product, loop or sort is in it: norms and activations are not worth memory."""
    inner = called(equation)
    if inner is not None:
        return all(map(_cheap, inner.jaxpr.eqns))
    name = equation.primitive.name
    return name in ELEMENTWISE or name in ARRANGING or name.startswith("reduce_")


def _variables(equation: Any) -> list[Any]:
    """The operands of an equation that are no literals."""
    return [v for v in equation.invars if not isinstance(v, Literal)]


def _calls(graph: Graph, use: Use) -> list[Site]:
    """The plain calls around a use, from the outermost in."""
    function, found = graph.function, list[Site]()
    for depth, i in enumerate(use.site[:-1], 1):
        equation = function.jaxpr.eqns[int(i)]
        inner = called(equation)
        if inner is None or "prevent_cse" in equation.params:
            break
        found.append(use.site[:depth])
        function = inner
    return found
