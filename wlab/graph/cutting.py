"""A function cut where its leaves become final, so that none of it is run from the start again.

Leaves are looked at in stages, and changed after each. What a stage has to run is what the leaves
of the stages before it decide, and has not been run with them yet.
"""

from collections.abc import Callable, Mapping, Sequence
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


def segments(graph: Graph, stages: Sequence[Uses]) -> tuple[Segment, ...]:
    """What is run at each stage, if the leaves of a stage change once it is over.

    A stage sees the leaves of earlier ones as they have become, and its own and later ones as they
    were. Values are kept that inputs have a say in; what leaves alone decide is computed anew.
    """
    values, found = _values(graph, stages), list[Segment]()
    for at in reversed(range(len(stages))):
        gives = found[-1].takes if found else ()
        found.append(_segment(graph, values, stages[at], at, gives))
    return tuple(reversed(found))


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
    jaxpr = graph.function.jaxpr
    names = (
        [jaxpr.invars[i] for i in segment.leaves],
        [jaxpr.constvars[i] for i in segment.consts],
        segment.takes,
    )
    values: dict[Any, Any] = {}
    for of, given in zip(names, operands, strict=True):
        values |= zip(of, given, strict=True)
    plan = planned(graph, statistic, segment.chosen)
    found = evaluate_some(graph.function, segment.equations, values, plan)
    return [values[v] for v in segment.gives], found


def read_uncalled(fn: Callable[..., Any], params: Params, *inputs: Any) -> Graph:
    """`read`, without the calls around the products of leaves: an outer `jit` hides no stage."""
    graph = read(fn, params, *inputs)
    entered = frozenset(place for use in products(graph).values() for place in _calls(graph, use))
    if not entered:
        return graph

    def flat(params: Params, *inputs: Any) -> Any:
        operands = jax.tree.leaves((params, inputs))
        return evaluate(graph.function, operands, Plan({}, entered=entered))[0]

    return read(flat, params, *inputs)


class _Values(NamedTuple):
    """What is known of the values of a jaxpr.

    Attributes:
        places: Of its operands and constants.
        makers: Which equation makes each other one.
        fed: Those that inputs have a say in.
        final: The number of stages that have to be over before each one changes no more.
    """

    places: dict[Any, tuple[str, int]]
    makers: dict[Any, int]
    fed: set[Any]
    final: dict[Any, int]


def _values(graph: Graph, stages: Sequence[Uses]) -> _Values:
    jaxpr, leaves = graph.function.jaxpr, len(graph.paths)
    over = {use.path: at + 1 for at, uses in enumerate(stages) for use in uses.values()}
    places = {v: ("consts", i) for i, v in enumerate(jaxpr.constvars)}
    places |= {v: ("leaves", i) for i, v in enumerate(jaxpr.invars[:leaves])}
    inputs = jaxpr.invars[leaves:]
    final = dict.fromkeys(jaxpr.constvars, 0) | dict.fromkeys(inputs, 0)
    final |= {v: over.get(p, 0) for v, p in zip(jaxpr.invars, graph.paths, strict=False)}
    makers: dict[Any, int] = {}
    fed = set(inputs)
    for i, equation in enumerate(jaxpr.eqns):
        operands = [v for v in equation.invars if not isinstance(v, Literal)]
        last = max((final[v] for v in operands), default=0)
        for v in equation.outvars:
            makers[v], final[v] = i, last
        if not fed.isdisjoint(operands):
            fed.update(equation.outvars)
    return _Values(places, makers, fed, final)


def _segment(graph: Graph, values: _Values, chosen: Uses, at: int, gives: Sequence[Any]) -> Segment:
    """Backwards from what is looked at and kept, to what earlier stages kept."""
    eqns = graph.function.jaxpr.eqns
    looked = {int(use.site[0]) for use in chosen.values()}
    operands = [v for i in looked for v in eqns[i].invars if not isinstance(v, Literal)]
    way = _back(graph, values, [*gives, *operands], lambda v: values.final[v] < at)
    way = way._replace(equations=way.equations | looked)
    for value in sorted(way.takes, key=lambda v: values.makers.get(v, -1), reverse=True):
        way = _without(graph, values, way, value)
    takes = sorted(way.takes, key=lambda v: (values.makers.get(v, -1), _index(graph, values, v)))
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
            operands = eqns[values.makers[value]].invars
            left += [v for v in operands if not isinstance(v, Literal)]
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


def _index(graph: Graph, values: _Values, value: Any) -> int:
    """Which result of its equation a value is, or which operand."""
    jaxpr, maker = graph.function.jaxpr, values.makers.get(value)
    return (jaxpr.invars if maker is None else jaxpr.eqns[maker].outvars).index(value)


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
