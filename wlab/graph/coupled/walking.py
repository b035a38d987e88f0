"""Follows every value through a jaxpr, and writes down which positions are one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wlab.graph.compat import Opened, called, opened, scan_counts
from wlab.graph.coupled.entrywise import is_literal, literal
from wlab.graph.coupled.ledger import Axis, Ledger
from wlab.graph.coupled.rules import new, related
from wlab.graph.coupled.value import Value
from wlab.graph.use import Site

Axes = tuple[Axis, ...]


@dataclass
class Walk:
    """What is filled on the way.

    Attributes:
        ledger: Of positions.
        operands: The axes of the operands of each equation.
        results: The axes of its results.
        entered: The calls, branches and loops among the equations.
    """

    ledger: Ledger = field(default_factory=Ledger)
    operands: dict[Site, list[Axes]] = field(default_factory=dict)
    results: dict[Site, list[Axes]] = field(default_factory=dict)
    entered: dict[Site, Any] = field(default_factory=dict)

    def through(self, function: Opened, values: Sequence[Value], site: Site) -> list[Value]:
        """What is known of the results of a jaxpr, from its constants and its operands.

        Within another, constants are not told of: what equations expect of them may not change.
        """
        jaxpr = function.jaxpr
        constants = [self._whole(variable) for variable in jaxpr.constvars] if site else []
        variables = (*jaxpr.constvars, *jaxpr.invars)
        known: dict[Any, Value] = dict(zip(variables, (*constants, *values), strict=True))

        def value(atom: Any) -> Value:
            return literal(atom) if is_literal(atom) else known[atom]

        for i, equation in enumerate(jaxpr.eqns):
            found = self._step(equation, [value(v) for v in equation.invars], (*site, i))
            known |= zip(equation.outvars, found, strict=True)
        return [value(v) for v in jaxpr.outvars]

    def _step(self, equation: Any, values: Sequence[Value], site: Site) -> list[Value]:
        enter = self._way_in(equation)
        if enter is None:
            found = related(self.ledger, equation, values)
        else:
            self.entered[site] = equation
            found = enter(equation, values, site)
        self.operands[site] = [value.axes for value in values]
        self.results[site] = [value.axes for value in found]
        return found

    def _way_in(self, equation: Any) -> Callable[..., list[Value]] | None:
        """How to follow values within an equation, if there is a within."""
        if called(equation) is not None:
            return self._call
        ways = {"scan": self._scan, "while": self._while, "cond": self._cond}
        return ways.get(equation.primitive.name)

    def _call(self, equation: Any, values: Sequence[Value], site: Site) -> list[Value]:
        function = called(equation)
        return [] if function is None else self.through(function, values, site)

    def _scan(self, equation: Any, values: Sequence[Value], site: Site) -> list[Value]:
        """What a turn carries has the same positions at its end as at its begin."""
        consts, carried = scan_counts(equation)
        body = opened(equation.params["jaxpr"])
        turns = [self._one_turn(value) for value in values[consts + carried :]]
        state = list(values[consts : consts + carried])

        def turn(state: list[Value]) -> list[Value]:
            return self.through(body, [*values[:consts], *state, *turns], site)

        state, found = self._repeated(turn, state)
        length = self.ledger.fixed(equation.params["length"], "a loop runs over it")
        return [*state, *(_stacked(value, length) for value in found[carried:])]

    def _while(self, equation: Any, values: Sequence[Value], site: Site) -> list[Value]:
        params = equation.params
        tests, bodies = params["cond_nconsts"], params["body_nconsts"]
        test, body = opened(params["cond_jaxpr"]), opened(params["body_jaxpr"])
        shared = values[tests : tests + bodies]

        def turn(state: list[Value]) -> list[Value]:
            return self.through(body, [*shared, *state], (*site, "body"))

        state, _ = self._repeated(turn, list(values[tests + bodies :]))
        self.through(test, [*values[:tests], *state], (*site, "cond"))
        return state

    def _repeated(self, turn: Any, state: list[Value]) -> tuple[list[Value], list[Value]]:
        """What a loop carries, once its zeros are those of every turn, and the turn's results."""
        state = [replace(value, fill=None) for value in state]
        while True:
            found = turn(state)
            ends = [
                replace(value, zero=value.zero & end.zero)
                for value, end in zip(state, found, strict=False)
            ]
            if all(a.zero == b.zero for a, b in zip(ends, state, strict=True)):
                break
            state = ends
        for value, end in zip(state, found, strict=False):
            self._unite(value, end)
        return state, found

    def _cond(self, equation: Any, values: Sequence[Value], site: Site) -> list[Value]:
        branches = [
            self.through(opened(branch), values[1:], (*site, f"branch {i}"))
            for i, branch in enumerate(equation.params["branches"])
        ]
        first, *others = branches
        for other in others:
            for value, also in zip(first, other, strict=True):
                self._unite(value, also)
        return [
            Value(of[0].axes, frozenset.intersection(*(value.zero for value in of)))
            for of in zip(*branches, strict=True)
        ]

    def _unite(self, one: Value, other: Value) -> None:
        for axis, also in zip(one.axes, other.axes, strict=True):
            self.ledger.unite(axis, also)

    def _whole(self, variable: Any) -> Value:
        value = new(self.ledger, variable)
        for axis in value.axes:
            self.ledger.freeze(axis, "a constant has it")
        return value

    def _one_turn(self, value: Value) -> Value:
        """What one turn of a loop gets of what it runs over."""
        self.ledger.freeze(value.axes[0], "a loop runs over it")
        return value.along(*range(1, len(value.axes)))


def _stacked(value: Value, length: Axis) -> Value:
    return Value((length, *value.axes), frozenset(i + 1 for i in value.zero))
