"""Runs a jaxpr anew, and at chosen equations also finds something out, or does something else.

What was found in a loop leaves it: stacked, where the loop runs over an axis of the leaf that it
was found for, else combined over the turns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from wlab.graph.compat import Opened, called, mapped, opened, scan_counts, scope
from wlab.graph.devices import varied
from wlab.graph.held import Held, carried
from wlab.graph.use import Site

Key = tuple[str, int]  # a leaf's path, and which of its uses
Found = dict[Key, Any]
Visit = Callable[[Any, Sequence[Any]], tuple[Sequence[Any], Found]]  # equation, operands -> results


@dataclass(frozen=True)
class Plan:
    """What to do where.

    Attributes:
        visits: In place of the equation at a site.
        loops: For each key, whether each loop around it stacks what is found, else combines it.
        combine: Of what two turns of a loop found.
        empty: The number with which combining changes nothing.
        across: Of what all devices along mesh axes found at a key, the same on each.
        entered: Calls and loops to run anew though nothing may be visited within.
    """

    visits: Mapping[Site, Visit]
    loops: Mapping[Key, tuple[bool, ...]] = field(default_factory=dict)
    combine: Callable[[Any, Any], Any] = jnp.add
    empty: float = 0.0
    across: Callable[[Key, Any, frozenset[str]], Any] = lambda key, found, axes: found
    entered: frozenset[Site] = frozenset()

    @cached_property
    def above(self) -> frozenset[Site]:
        """The sites within which there is something to do."""
        return self.entered | {site[:i] for site in self.visits for i in range(len(site))}

    def nothing(self, found: Found) -> Found:
        """As if nothing had been found yet, of some shapes."""
        return jax.tree.map(lambda x: varied(jnp.full(x.shape, self.empty, x.dtype), x), found)


@dataclass(frozen=True)
class _Place:
    """Where an equation stands: its site, and how many loops are around it."""

    site: Site = ()
    loops: int = 0

    def at(self, *parts: int | str) -> "_Place":
        return _Place((*self.site, *parts), self.loops)

    def looped(self) -> "_Place":
        return _Place(self.site, self.loops + 1)


def evaluate(function: Opened, operands: Sequence[Any], plan: Plan) -> tuple[list[Any], Found]:
    """The results of a jaxpr, and what the visits found.

    Equations with nothing to do below them are bound as they are; those above lose custom
    derivative rules, and so do those that meet something held. Can be traced, compiled and
    differentiated.
    """
    return _evaluate(function, operands, plan, _Place())


def evaluate_some(
    function: Opened, equations: Iterable[int], values: dict[Any, Any], plan: Plan
) -> Found:
    """What the visits at some of a jaxpr's equations found; their results join the values.

    Args:
        function: The jaxpr.
        equations: Which, in order.
        values: Those of all variables that they read, and that no earlier one of them makes.
        plan: What to do where.
    """
    return _run(function, equations, values, plan, _Place())


def _evaluate(
    function: Opened, operands: Sequence[Any], plan: Plan, place: _Place
) -> tuple[list[Any], Found]:
    jaxpr = function.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, function.consts, strict=True))
    values |= zip(jaxpr.invars, operands, strict=True)
    found = _run(function, range(len(jaxpr.eqns)), values, plan, place)
    return [_value(values, v) for v in jaxpr.outvars], found


def _run(
    function: Opened, equations: Iterable[int], values: dict[Any, Any], plan: Plan, place: _Place
) -> Found:
    found: Found = {}
    for i in equations:
        equation = function.jaxpr.eqns[i]
        operands = [_value(values, v) for v in equation.invars]
        results, more = _step(equation, operands, plan, place.at(i))
        values |= zip(equation.outvars, results, strict=True)
        found |= more
    return found


def _value(values: Mapping[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]


def bound(
    equation: Any, operands: Sequence[Any], params: Mapping[str, Any] | None = None
) -> Sequence[Any]:
    """The results of an equation as it is, or with other parameters."""
    given = equation.primitive.get_bind_params(dict(params or equation.params))
    with scope(equation), equation.ctx.manager:
        results = equation.primitive.bind(*operands, **given)
    return results if equation.primitive.multiple_results else [results]


def _step(
    equation: Any, operands: Sequence[Any], plan: Plan, place: _Place
) -> tuple[Sequence[Any], Found]:
    if place.site in plan.visits:
        return plan.visits[place.site](equation, operands)
    held = next((x for x in operands if isinstance(x, Held)), None)
    if place.site not in plan.above and held is None:
        return bound(equation, operands), {}
    name, function = equation.primitive.name, called(equation)
    if name in _LOOPS:
        return _LOOPS[name](equation, operands, plan, place)
    if function is None and held is not None:
        return carried(equation, operands, held), {}
    if function is None:
        raise NotImplementedError(f"nothing can be done within {name}.")
    if "prevent_cse" in equation.params:
        run = jax.checkpoint(
            lambda *operands: _evaluate(function, operands, plan, place),
            prevent_cse=equation.params["prevent_cse"],
            policy=equation.params["policy"],
        )
        return run(*operands)
    return _evaluate(function, operands, plan, place)


def _scan(
    equation: Any, operands: Sequence[Any], plan: Plan, place: _Place
) -> tuple[Sequence[Any], Found]:
    params, inner = equation.params, place.looped()
    consts, carried = scan_counts(equation)
    body, shared = opened(params["jaxpr"]), operands[:consts]

    def turn(state: Any, part: Sequence[Any]) -> Any:
        carry, sums = state
        results, found = _evaluate(body, [*shared, *carry, *part], plan, inner)
        summed = {key: plan.combine(sums[key], found[key]) for key in sums}
        stacked = {key: found[key] for key in found if key not in sums}
        return (results[:carried], summed), (results[carried:], stacked)

    sums = _sums(body, plan, inner)
    (carry, summed), (parts, stacked) = jax.lax.scan(
        turn,
        (list(operands[consts : consts + carried]), sums),
        list(operands[consts + carried :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *parts], summed | stacked


def _while(
    equation: Any, operands: Sequence[Any], plan: Plan, place: _Place
) -> tuple[Sequence[Any], Found]:
    params, inner = equation.params, place.at("body").looped()
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    test, body = opened(params["cond_jaxpr"]), opened(params["body_jaxpr"])

    def goes_on(state: Any) -> Any:
        (answer,), _ = _evaluate(test, [*operands[:tests], *state[0]], plan, place.at("cond"))
        return answer

    def turn(state: Any) -> Any:
        carry, sums = state
        consts = operands[tests : tests + bodies]
        results, found = _evaluate(body, [*consts, *carry], plan, inner)
        return results, {key: plan.combine(sums[key], found[key]) for key in sums}

    state = (list(operands[tests + bodies :]), _sums(body, plan, inner))
    return jax.lax.while_loop(goes_on, turn, state)


def _shard_map(
    equation: Any, operands: Sequence[Any], plan: Plan, place: _Place
) -> tuple[Sequence[Any], Found]:
    of, everywhere = mapped(equation), jax.P()

    def on_one(*operands: Any) -> tuple[list[Any], Found]:
        results, found = _evaluate(of.function, operands, plan, place)
        return results, {key: plan.across(key, x, of.axes) for key, x in found.items()}

    run = jax.shard_map(
        on_one,
        mesh=of.mesh,
        in_specs=tuple(of.in_specs),
        out_specs=(list(of.out_specs), everywhere),
        axis_names=of.axes,
        check_vma=of.check_vma,
    )
    return run(*operands)


def _cond(
    equation: Any, operands: Sequence[Any], plan: Plan, place: _Place
) -> tuple[Sequence[Any], Found]:
    branches = [opened(branch) for branch in equation.params["branches"]]
    places = [place.at(f"branch {i}") for i in range(len(branches))]
    pairs = list(zip(branches, places, strict=True))
    union: Found = {}
    for branch, where in pairs:
        union |= _shapes(branch, plan, where)

    def run(branch: Opened, where: _Place) -> Callable[..., Any]:
        def one(*operands: Any) -> Any:
            results, found = _evaluate(branch, operands, plan, where)
            return results, plan.nothing(union) | found

        return one

    index, *rest = operands
    return jax.lax.switch(index, [run(*pair) for pair in pairs], *rest)


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}


def _shapes(function: Opened, plan: Plan, place: _Place) -> Found:
    """The shapes of what is found in a jaxpr."""
    if not plan.loops:
        return {}
    operands = [v.aval for v in function.jaxpr.invars]
    return jax.eval_shape(lambda *xs: _evaluate(function, xs, plan, place)[1], *operands)


def _sums(body: Opened, plan: Plan, place: _Place) -> Found:
    """Nothing yet, for each key that the turns of this loop share."""
    shapes = _shapes(body, plan, place)
    return plan.nothing(
        {key: x for key, x in shapes.items() if not plan.loops[key][place.loops - 1]}
    )
